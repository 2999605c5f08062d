// Command server is the program of a control plane for tests. Its first argument names the part that it runs:
//
//	apiserver    kube-apiserver, unchanged
//	controllers  kube-controller-manager, unchanged
//	kubelet      a kubelet that registers a Node and reports on it, and whose containers exist only in its memory
//	kubectl      kubectl, unchanged
//
// One program instead of four: they share most of what the linker writes.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {
	parts := map[string]func() *cobra.Command{
		"apiserver":   apiserver.NewAPIServerCommand,
		"controllers": controllers.NewControllerManagerCommand,
		"kubelet":     newKubeletCommand,
		"kubectl":     kubectl.NewDefaultKubectlCommand,
	}
	if len(os.Args) > 1 {
		if part, known := parts[os.Args[1]]; known {
			// Each command reads the arguments of the process.
			os.Args = append(os.Args[:1], os.Args[2:]...)
			os.Exit(cli.Run(part()))
		}
	}
	fmt.Fprintln(os.Stderr, "usage: server apiserver|controllers|kubelet|kubectl FLAGS")
	os.Exit(64)
}
