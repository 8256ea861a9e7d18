// Command provisioner provides a directory of the node for each
// PersistentVolumeClaim. It replaces the local-path-provisioner of kind's own
// node image, whose dependencies conflict with those of other programs in this
// module. It creates the directories through a hostPath mount: each node runs
// one, which provides for the claims whose pods are scheduled there.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v10/controller"
)

const (
	name = "workspace.example.com/node-directory"
	root = "/var/local-path-provisioner"

	nodeLabel = "workspace.example.com/node" // of a volume: the node's name
)

func main() {
	logger := klog.Background()
	ctx := klog.NewContext(context.Background(), logger)
	config, err := rest.InClusterConfig()
	if err != nil {
		klog.Fatalf("find the API server: %v", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		klog.Fatalf("make a client: %v", err)
	}
	controller.NewProvisionController(logger, client, name, directories{node: os.Getenv("NODE_NAME")},
		controller.LeaderElection(false)).Run(ctx)
}

// directories are those of one node.
type directories struct{ node string }

func (d directories) ShouldProvision(_ context.Context, claim *corev1.PersistentVolumeClaim) bool {
	return claim.Annotations["volume.kubernetes.io/selected-node"] == d.node
}

func (d directories) ShouldDelete(_ context.Context, volume *corev1.PersistentVolume) bool {
	return volume.Labels[nodeLabel] == d.node
}

func (directories) Provision(
	_ context.Context, options controller.ProvisionOptions,
) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	if options.SelectedNode == nil {
		return nil, controller.ProvisioningFinished,
			fmt.Errorf("no node selected: the storage class needs volumeBindingMode WaitForFirstConsumer")
	}
	path := filepath.Join(root, options.PVName)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	// hostPath volumes do not support fsGroup, and pods may run as any user.
	if err := os.Chmod(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: options.PVName, Labels: map[string]string{nodeLabel: options.SelectedNode.Name},
		},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			AccessModes:                   options.PVC.Spec.AccessModes,
			Capacity: corev1.ResourceList{
				corev1.ResourceStorage: options.PVC.Spec.Resources.Requests[corev1.ResourceStorage],
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key:      corev1.LabelHostname,
					Operator: corev1.NodeSelectorOpIn,
					Values:   []string{options.SelectedNode.Labels[corev1.LabelHostname]},
				}}}},
			}},
		},
	}, controller.ProvisioningFinished, nil
}

func (directories) Delete(_ context.Context, volume *corev1.PersistentVolume) error {
	return os.RemoveAll(filepath.Join(root, volume.Name))
}
