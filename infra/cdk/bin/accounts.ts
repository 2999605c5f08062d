// A cluster of another account, both sides of it:
// npx cdk deploy --app 'npx tsx bin/accounts.ts' --all --context cluster=test --context account=444455556666 \
//   --context installation=nodemend-prod --context installationAccount=111122223333

import { App, Stack, Validations } from "aws-cdk-lib";
import { AwsSolutionsChecks } from "cdk-nag";
import { FurtherCluster, MemberCluster } from "../lib/further-cluster";

const app = new App();
const given = (name: string): string => app.node.tryGetContext(name);
const [clusterName, account, installation] = [given("cluster"), given("account"), given("installation")];
const [installationAccount, region] = [given("installationAccount"), process.env.CDK_DEFAULT_REGION ?? "eu-west-1"];

const here = new Stack(app, `${installation}-${clusterName}`, { env: { account: installationAccount, region } });
new FurtherCluster(here, "FurtherCluster", { clusterName, installation, account });

const there = new Stack(app, `nodemend-member-${clusterName}`, { env: { account, region } });
const linesTo = `arn:aws:logs:${region}:${installationAccount}:destination:nodemend-${clusterName}`;
new MemberCluster(there, "MemberCluster", { clusterName, installationAccount, installation, linesTo });
there.addDependency(here);

Validations.of(app).addPlugins(new AwsSolutionsChecks(app));
