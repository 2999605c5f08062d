// Turns infra/cluster.yaml and infra/member.yaml into constructs: the two sides of a cluster that an installation elsewhere
// serves. The templates stay the one truth, as in node-repair.ts.

import * as path from "node:path";
import type { CfnParameter } from "aws-cdk-lib";
import { CfnInclude } from "aws-cdk-lib/cloudformation-include";
import { Construct } from "constructs";
import { explainCluster, explainMember } from "./findings";

export interface FurtherClusterProps {
  /** The cluster's name: no other cluster of the installation has it. */
  readonly clusterName: string;
  /** The name of the installation's stack, which is deployed before. */
  readonly installation: string;
  /** The cluster's account. Default: the installation's own. */
  readonly account?: string;
}

export interface MemberClusterProps {
  /** The cluster's name. */
  readonly clusterName: string;
  /** The account of the installation. */
  readonly installationAccount: string;
  /** The name of the installation's stack there. */
  readonly installation: string;
  /** The output `LinesTo` of the other side; in the installation's own account its output `IntakeFunction`. */
  readonly linesTo: string;
  /** Whether the cluster writes an audit log. Default: true. */
  readonly controlPlaneLogs?: boolean;
  /** The cluster's OIDC issuer without https://, for IRSA. Default: EKS Pod Identity. */
  readonly oidcProvider?: string;
  /** The agents' namespace. */
  readonly agentNamespace?: string;
  /** The agents' service account. */
  readonly agentServiceAccount?: string;
  /** How long reports are kept. */
  readonly retentionDays?: number;
}

/** The installation's side: what its account adds for one more cluster. */
export class FurtherCluster extends Construct {
  readonly template: CfnInclude;

  constructor(scope: Construct, id: string, props: FurtherClusterProps) {
    super(scope, id);
    this.template = include(this, "cluster.yaml", {
      ClusterName: props.clusterName,
      Installation: props.installation,
      Account: props.account,
    });
    explainCluster(this.template);
  }
}

/** The cluster's side, in its own account. */
export class MemberCluster extends Construct {
  readonly template: CfnInclude;

  constructor(scope: Construct, id: string, props: MemberClusterProps) {
    super(scope, id);
    this.template = include(this, "member.yaml", {
      ClusterName: props.clusterName,
      InstallationAccount: props.installationAccount,
      Installation: props.installation,
      LinesTo: props.linesTo,
      ControlPlaneLogs: props.controlPlaneLogs === undefined ? undefined : props.controlPlaneLogs ? "enabled" : "disabled",
      OidcProvider: props.oidcProvider,
      AgentNamespace: props.agentNamespace,
      AgentServiceAccount: props.agentServiceAccount,
      RetentionDays: props.retentionDays,
    });
    explainMember(this.template);
  }
}

function include(scope: Construct, file: string, parameters: Record<string, string | number | undefined>): CfnInclude {
  const templateFile = path.join(__dirname, "..", "..", file);
  const template = new CfnInclude(scope, "Template", { templateFile, preserveLogicalIds: true });
  for (const [name, value] of Object.entries(parameters)) {
    const parameter: CfnParameter = template.getParameter(name);
    if (value !== undefined) {
      parameter.default = value;
    }
  }
  return template;
}
