package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/trace/noop"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	remote "k8s.io/cri-client/pkg"
	fakeremote "k8s.io/cri-client/pkg/fake"
	"k8s.io/klog/v2"
	cadvisortest "k8s.io/kubernetes/pkg/kubelet/cadvisor/testing"
	"k8s.io/kubernetes/pkg/kubelet/cm"
	"k8s.io/kubernetes/pkg/kubemark"
)

const runtimeTimeout = 15 * time.Second

// hollowKubelet is kubemark's kubelet of one Node, with what kubemark's own command has no flags for.
type hollowKubelet struct {
	kubeconfig string
	name       string
	providerID string
}

func newKubeletCommand() *cobra.Command {
	var kubelet hollowKubelet
	command := &cobra.Command{
		Use:          "kubelet",
		SilenceUsage: true,
		RunE:         func(command *cobra.Command, _ []string) error { return kubelet.run(command.Context()) },
	}
	flags := command.Flags()
	flags.StringVar(&kubelet.kubeconfig, "kubeconfig", "", "the kubeconfig file")
	flags.StringVar(&kubelet.name, "name", "", "the name of the Node")
	flags.StringVar(&kubelet.providerID, "provider-id", "", "its provider ID, such as aws:///eu-west-1a/i-0123456789abcdef0")
	return command
}

func (k *hollowKubelet) run(ctx context.Context) error {
	clientConfig, err := clientcmd.BuildConfigFromFlags("", k.kubeconfig)
	if err != nil {
		return fmt.Errorf("failed to read the kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(clientConfig)
	if err != nil {
		return fmt.Errorf("failed to make a client: %w", err)
	}
	flags, config := kubemark.GetHollowKubeletConfig(&kubemark.HollowKubeletOptions{NodeName: k.name, MaxPods: 110})
	config.ProviderID = k.providerID
	// It listens on no port: nothing asks it for logs or metrics.
	config.EnableServer = false
	config.ReadOnlyPort = 0

	endpoint, err := fakeremote.GenerateEndpoint()
	if err != nil {
		return fmt.Errorf("failed to choose a socket for the runtime: %w", err)
	}
	runtime := fakeremote.NewFakeRemoteRuntime()
	if err := runtime.Start(endpoint); err != nil {
		return fmt.Errorf("failed to start the runtime: %w", err)
	}
	defer runtime.Stop()
	logger := klog.FromContext(ctx)
	service, err := remote.NewRemoteRuntimeService(endpoint, runtimeTimeout, noop.NewTracerProvider(), &logger)
	if err != nil {
		return fmt.Errorf("failed to connect to the runtime: %w", err)
	}
	kubemark.NewHollowKubelet(
		flags, config, client, client,
		&cadvisortest.Fake{NodeName: k.name},
		runtime.ImageService, service,
		cm.NewStubContainerManager(),
	).Run(ctx)
	return nil
}
