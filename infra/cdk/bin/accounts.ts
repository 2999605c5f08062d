// One cluster in another account, both sides of it:
// npx cdk deploy --app 'npx tsx bin/accounts.ts' --all --context cluster=test --context account=444455556666 \
//   --context deploymentStack=nodemend-prod --context deploymentAccount=111122223333

import { App, Stack, Validations } from "aws-cdk-lib";
import { AwsSolutionsChecks } from "cdk-nag";
import { FurtherCluster, MemberCluster } from "../lib/further-cluster";

const app = new App();
const context = (name: string): string => app.node.tryGetContext(name);
const [clusterName, account, deploymentStack] = [context("cluster"), context("account"), context("deploymentStack")];
const [deploymentAccount, region] = [context("deploymentAccount"), process.env.CDK_DEFAULT_REGION ?? "eu-west-1"];

const deployment = new Stack(app, `${deploymentStack}-${clusterName}`, { env: { account: deploymentAccount, region } });
new FurtherCluster(deployment, "FurtherCluster", { clusterName, deploymentStack, account });

const member = new Stack(app, `nodemend-member-${clusterName}`, { env: { account, region } });
const logDestinationArn = `arn:aws:logs:${region}:${deploymentAccount}:destination:nodemend-${clusterName}`;
new MemberCluster(member, "MemberCluster", { clusterName, deploymentAccount, deploymentStack, logDestinationArn });
member.addDependency(deployment);

Validations.of(app).addPlugins(new AwsSolutionsChecks(app));
