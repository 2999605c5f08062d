//! The rows of the catalogue, sorted by name.

use super::{
    Clear::{Boot, Line, Probe, Quiet},
    ReasonEntry,
};
use crate::condition::{ConditionType, RepairAction, Severity};

macro_rules! entry {
    ($severity:ident $action:ident, $may_be_event:literal, $ours:literal, $reason:literal, $condition:ident, $clears:expr, $meaning:literal) => {
        ReasonEntry {
            reason: $reason,
            condition: ConditionType::$condition,
            severity: Severity::$severity,
            may_be_event: $may_be_event,
            action: RepairAction::$action,
            clears: $clears,
            meaning: $meaning,
            ours: $ours,
        }
    };
}

macro_rules! event {
    ($($row:tt)*) => { entry!(Event NoAction, false, false, $($row)*) };
}

macro_rules! fault {
    ($($row:tt)*) => { entry!(Condition Replace, false, false, $($row)*) };
}

/// An event that EKS's agent does not report.
macro_rules! our_event {
    ($($row:tt)*) => { entry!(Event NoAction, false, true, $($row)*) };
}

macro_rules! our_fault {
    ($($row:tt)*) => { entry!(Condition Replace, false, true, $($row)*) };
}

/// Every reason, sorted by name for a binary search.
pub static ENTRIES: &[ReasonEntry] = &[
    our_event!(
        "AgentSilent",
        Ready,
        &[Line],
        "the agent has stopped reporting; what it watches is not watched"
    ),
    event!(
        "AppBlocked",
        KernelReady,
        &[Quiet(10)],
        "a task has been blocked for minutes on storage or a lock"
    ),
    event!("AppCrash", KernelReady, &[Quiet(10)], "a program crashed on a memory fault"),
    event!(
        "ApproachingKernelPidMax",
        KernelReady,
        &[Probe],
        "threads near the limit of the kernel; at the limit nothing can start"
    ),
    event!(
        "ApproachingMaxOpenFiles",
        KernelReady,
        &[Probe],
        "open files near the limit of the kernel; at the limit nothing can be opened"
    ),
    our_event!(
        "AttachedEbsStatusImpaired",
        Ready,
        &[Boot],
        "EC2's attached EBS status check fails: the instance cannot reach some of its volumes"
    ),
    event!(
        "BandwidthInExceeded",
        NetworkingReady,
        &[Probe],
        "the instance exceeds its inbound bandwidth allowance; packets are queued or dropped"
    ),
    event!(
        "BandwidthOutExceeded",
        NetworkingReady,
        &[Probe],
        "the instance exceeds its outbound bandwidth allowance; packets are queued or dropped"
    ),
    event!("BlockDeviceIOError", StorageReady, &[Quiet(10)], "a block device failed to read or write"),
    event!(
        "ClockUnsynchronized",
        KernelReady,
        &[Probe],
        "the clock is not synchronized; tokens and certificates may be refused"
    ),
    event!(
        "ConntrackExceeded",
        NetworkingReady,
        &[Probe],
        "the instance exceeds its connection tracking allowance; packets are queued or dropped"
    ),
    event!(
        "ConntrackExceededKernel",
        KernelReady,
        &[Probe],
        "the connection table is full; new connections are dropped"
    ),
    event!(
        "ContainerRuntimeFailed",
        ContainerRuntimeReady,
        &[Quiet(10)],
        "the container runtime failed to create a container"
    ),
    our_fault!(
        "ContainerRuntimeNotResponding",
        ContainerRuntimeReady,
        &[Probe],
        "the container runtime does not answer; no pod can start or stop"
    ),
    event!(
        "DeprecatedContainerdConfiguration",
        ContainerRuntimeReady,
        &[Probe],
        "containerd warns that its configuration will stop working"
    ),
    event!(
        "EBSInstanceIOPSExceeded",
        StorageReady,
        &[Probe],
        "the instance exceeds its EBS IOPS limit; storage is throttled"
    ),
    event!(
        "EBSInstanceThroughputExceeded",
        StorageReady,
        &[Probe],
        "the instance exceeds its EBS throughput limit; storage is throttled"
    ),
    event!(
        "EBSVolumeIOPSExceeded",
        StorageReady,
        &[Probe],
        "an EBS volume exceeds its IOPS limit; storage is throttled"
    ),
    event!(
        "EBSVolumeThroughputExceeded",
        StorageReady,
        &[Probe],
        "an EBS volume exceeds its throughput limit; storage is throttled"
    ),
    event!("EFAErrorMetric", NetworkingReady, &[Probe], "an EFA device reports errors at a high rate"),
    event!(
        "EtcHostsMountFailed",
        StorageReady,
        &[Quiet(10)],
        "a container could not mount its hosts file and did not start"
    ),
    event!(
        "ExcessiveZombieProcesses",
        KernelReady,
        &[Probe],
        "zombie processes accumulate and hold process IDs"
    ),
    fault!(
        "FabricManagerNotRunning",
        AcceleratedHardwareReady,
        &[Probe],
        "the NVSwitch fabric manager failed; multi-GPU jobs cannot start"
    ),
    our_fault!("FailedToJoin", Ready, &[Line], "an instance was launched and did not register as a node"),
    our_fault!("FilesystemCorruption", StorageReady, &[Boot], "the kernel found a host filesystem corrupted"),
    fault!(
        "ForkFailedOutOfPIDs",
        KernelReady,
        &[Probe, Quiet(10)],
        "no new process or thread can start; pods fail to start and probes fail"
    ),
    our_event!("HardLockup", KernelReady, &[Quiet(10)], "a CPU no longer handles interrupts"),
    event!(
        "IODelays",
        StorageReady,
        &[Probe],
        "a process spent more than ten seconds of ten minutes waiting for storage"
    ),
    our_event!(
        "IOPressure",
        StorageReady,
        &[Probe],
        "all work on the node waits for storage most of the time"
    ),
    event!(
        "IPAMDInconsistentState",
        NetworkingReady,
        &[Probe],
        "the VPC CNI daemon and the runtime disagree about the pods on the node"
    ),
    event!("IPAMDNoIPs", NetworkingReady, &[Quiet(10)], "the subnet has no free addresses for pods"),
    fault!(
        "IPAMDNotReady",
        NetworkingReady,
        &[Line, Quiet(5), Probe],
        "the VPC CNI daemon cannot reach the API server; pods get no addresses"
    ),
    fault!(
        "IPAMDNotRunning",
        NetworkingReady,
        &[Probe],
        "the VPC CNI is installed but its daemon does not run; pods get no addresses"
    ),
    event!("IPAMDRepeatedlyRestart", NetworkingReady, &[Quiet(30)], "the VPC CNI daemon restarts repeatedly"),
    our_event!(
        "InodesExhausted",
        StorageReady,
        &[Probe],
        "a host filesystem is almost out of inodes; then no more files can be created"
    ),
    our_event!(
        "InstanceMaintenance",
        Ready,
        &[Boot],
        "AWS Health announced maintenance of the instance: a reboot, or an interruption of its network or power"
    ),
    our_event!(
        "InstanceRetirement",
        Ready,
        &[Boot],
        "AWS Health announced that EC2 will stop or terminate the instance; a stop and a start move it to another host"
    ),
    our_event!(
        "InstanceStatusImpaired",
        Ready,
        &[Boot],
        "EC2's instance status check fails: the instance does not answer on its network interface"
    ),
    fault!(
        "InterfaceNotRunning",
        NetworkingReady,
        &[Probe],
        "a network interface has no carrier; pods on it are cut off"
    ),
    fault!(
        "InterfaceNotUp",
        NetworkingReady,
        &[Probe],
        "a network interface is down; pods on it are cut off"
    ),
    event!("KernelBug", KernelReady, &[Boot], "the kernel hit a bug; the damage lasts until a reboot"),
    our_event!(
        "KernelLogOverrun",
        KernelReady,
        &[Quiet(10)],
        "kernel log records were lost before they were read; faults in them are not detected"
    ),
    event!(
        "KubeProxyNotReady",
        NetworkingReady,
        &[Quiet(10)],
        "kube-proxy cannot watch the API server; services go stale"
    ),
    event!(
        "KubeletDiskUsageSlow",
        StorageReady,
        &[Quiet(10)],
        "the kubelet takes long to measure its disks; storage is slow"
    ),
    event!("KubeletFailed", ContainerRuntimeReady, &[Probe], "the kubelet service is in state failed"),
    our_event!("KubeletNotHealthy", ContainerRuntimeReady, &[Probe], "the kubelet's health check fails"),
    fault!("KubeletNotReady", Ready, &[Probe], "the kubelet reports that it cannot run pods"),
    event!(
        "LargeEnvironment",
        KernelReady,
        &[Probe],
        "a process has more than 1,000 environment variables, often from service links"
    ),
    event!(
        "LinkLocalExceeded",
        NetworkingReady,
        &[Probe],
        "the instance exceeds its allowance for DNS and metadata packets; packets are queued or dropped"
    ),
    event!(
        "LivenessProbeFailures",
        ContainerRuntimeReady,
        &[Quiet(10)],
        "liveness probes fail at a high rate; containers are being restarted"
    ),
    event!(
        "MACAddressPolicyMisconfigured",
        NetworkingReady,
        &[Probe],
        "systemd changes the addresses of pod interfaces; pods lose their network"
    ),
    entry!(Condition Replace, true, true,  "MemoryHardwareError", KernelReady, &[Boot], "the memory reports errors: corrected (a warning) or uncorrectable (data corruption)"),
    our_event!(
        "MetadataServiceBlocked",
        NetworkingReady,
        &[Probe],
        "the instance metadata service cannot be reached; credentials will expire"
    ),
    event!(
        "MissingDefaultRoutes",
        NetworkingReady,
        &[Probe],
        "a secondary route table has no default route; its pods reach nothing outside the subnet"
    ),
    event!(
        "MissingIPRoutes",
        NetworkingReady,
        &[Probe],
        "routes of pod addresses are missing; these pods have no network"
    ),
    event!(
        "MissingIPRules",
        NetworkingReady,
        &[Probe],
        "routing rules of pod addresses are missing; these pods have no network"
    ),
    fault!(
        "MissingLoopbackInterface",
        NetworkingReady,
        &[Probe],
        "the loopback interface is missing or down; probes and sidecars fail"
    ),
    event!(
        "NPABPFRecoveryError",
        NetworkingReady,
        &[Quiet(10)],
        "the network policy agent cannot recover its eBPF programs"
    ),
    fault!(
        "NPANotRunning",
        NetworkingReady,
        &[Probe],
        "the network policy agent does not run; policies are not enforced"
    ),
    event!(
        "NPARepeatedlyRestart",
        NetworkingReady,
        &[Quiet(10)],
        "the network policy agent restarts repeatedly"
    ),
    event!(
        "NetworkSysctl",
        NetworkingReady,
        &[Probe],
        "IP forwarding is off; pods cannot reach beyond the node"
    ),
    fault!(
        "NeuronDMAError",
        AcceleratedHardwareReady,
        &[Boot],
        "a Neuron DMA engine has an uncorrectable error; jobs on it fail"
    ),
    fault!(
        "NeuronHBMUncorrectableError",
        AcceleratedHardwareReady,
        &[Boot],
        "a Neuron memory has an uncorrectable error; jobs on it fail"
    ),
    fault!(
        "NeuronNCUncorrectableError",
        AcceleratedHardwareReady,
        &[Boot],
        "a Neuron core has an uncorrectable error; jobs on it fail"
    ),
    fault!(
        "NeuronSRAMUncorrectableError",
        AcceleratedHardwareReady,
        &[Boot],
        "a Neuron on-chip memory has an uncorrectable error; jobs on it fail"
    ),
    our_event!(
        "NodeDNSFailing",
        NetworkingReady,
        &[Probe],
        "the name of the API server does not resolve while the network is up"
    ),
    fault!(
        "NodeDeleted",
        Ready,
        &[Line],
        "the Node object was deleted while its instance runs; it serves no pods"
    ),
    fault!("NodeStatusNeverUpdated", Ready, &[Probe], "the kubelet has never reported since it registered"),
    fault!(
        "NodeStatusUnknown",
        Ready,
        &[Probe],
        "the kubelet has not reported to the control plane for 40 seconds or more"
    ),
    fault!(
        "NvidiaDeviceCountMismatch",
        AcceleratedHardwareReady,
        &[Probe],
        "GPUs are missing: the bus, the driver and the instance type disagree"
    ),
    fault!(
        "NvidiaDoubleBitError",
        AcceleratedHardwareReady,
        &[Boot],
        "a GPU has uncorrectable memory errors"
    ),
    event!(
        "NvidiaNCCLError",
        AcceleratedHardwareReady,
        &[Quiet(10)],
        "a job crashed in the GPU communication library"
    ),
    fault!(
        "NvidiaNVLinkError",
        AcceleratedHardwareReady,
        &[Boot],
        "an NVLink or NVSwitch failed; GPUs cannot reach each other"
    ),
    event!("NvidiaPCIeError", AcceleratedHardwareReady, &[Probe], "a GPU replays transfers on the PCIe bus"),
    event!(
        "NvidiaPageRetirement",
        AcceleratedHardwareReady,
        &[Boot],
        "a GPU has memory pages waiting to be retired at the next boot"
    ),
    event!("NvidiaPowerError", AcceleratedHardwareReady, &[Probe], "a GPU is throttled for lack of power"),
    event!(
        "NvidiaThermalError",
        AcceleratedHardwareReady,
        &[Probe],
        "a GPU is throttled because it is too hot"
    ),
    our_event!(
        "OOMKilling",
        KernelReady,
        &[Quiet(10)],
        "memory ran out, of the host or of a container, and a process was killed"
    ),
    event!(
        "PPSExceeded",
        NetworkingReady,
        &[Probe],
        "the instance exceeds its packets-per-second allowance; packets are queued or dropped"
    ),
    our_event!(
        "PodPidsExhausted",
        KernelReady,
        &[Probe],
        "one pod has reached its process limit; only this pod is affected"
    ),
    fault!(
        "PodStuckTerminating",
        ContainerRuntimeReady,
        &[Quiet(10)],
        "a pod cannot be stopped for ten minutes or more"
    ),
    event!(
        "PortConflict",
        NetworkingReady,
        &[Probe],
        "a rule diverts port 10250; the API server cannot reach the kubelet"
    ),
    event!("RapidCron", KernelReady, &[Quiet(15)], "a cron job runs more often than every five minutes"),
    our_event!("RcuStall", KernelReady, &[Quiet(10)], "a CPU has stalled RCU for too long"),
    event!(
        "ReadinessProbeFailures",
        ContainerRuntimeReady,
        &[Quiet(10)],
        "readiness probes fail at a high rate; pods are out of service"
    ),
    our_fault!(
        "ReadonlyFilesystem",
        StorageReady,
        &[Probe, Boot],
        "a host filesystem went read-only; nothing on it can be written"
    ),
    our_event!(
        "RebalanceRecommendation",
        Ready,
        &[Boot],
        "EC2 announced that the Spot Instance is at a higher risk of an interruption"
    ),
    event!("ServiceFailedToStart", ContainerRuntimeReady, &[Quiet(10)], "a systemd service failed to start"),
    event!(
        "SoftLockup",
        KernelReady,
        &[Quiet(10)],
        "a CPU ran kernel code for tens of seconds without a pause"
    ),
    our_event!(
        "SpotInterruption",
        Ready,
        &[Boot],
        "EC2 announced that it interrupts the Spot Instance in two minutes"
    ),
    our_event!(
        "SystemStatusImpaired",
        Ready,
        &[Boot],
        "EC2's system status check fails: the host, its power or its network is impaired"
    ),
    event!(
        "UnexpectedRejectRule",
        NetworkingReady,
        &[Probe],
        "a firewall rule that neither Kubernetes nor the CNI installed rejects traffic"
    ),
    event!(
        "XFSSmallAverageClusterSize",
        StorageReady,
        &[Probe],
        "an XFS filesystem is so fragmented that it may fail to allocate"
    ),
];
