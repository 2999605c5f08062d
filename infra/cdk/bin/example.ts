// nodemend for one cluster: npx cdk deploy --context cluster=prod

import { App, Stack, Validations } from "aws-cdk-lib";
import { AwsSolutionsChecks } from "cdk-nag";
import { NodeRepair } from "../lib/node-repair";

const app = new App();
const cluster: string = app.node.tryGetContext("cluster") ?? "prod";
const functions: string | undefined = app.node.tryGetContext("functions");
const stack = new Stack(app, `nodemend-${cluster}`, { description: "nodemend, provable auto-repair for EKS nodes" });
new NodeRepair(stack, "NodeRepair", { clusterName: cluster, ...(functions ? { functions } : {}) });

Validations.of(app).addPlugins(new AwsSolutionsChecks(app));
