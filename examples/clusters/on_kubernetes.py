"""Workers on Kubernetes for ``sst-merge ... --scheduler ADDRESS``; change image, claims and sizes to your cluster's.

    pip install dask-kubernetes            # and install its operator into the cluster, as its page says
    python on_kubernetes.py                # prints the address; the cluster stays until it is deleted

The image holds the same version of sst-merge as the machine that calls it; ``/shared`` is a volume with base, adapters
and prompts, mounted at the same path there.
"""

from dask_kubernetes.operator import KubeCluster, make_cluster_spec

IMAGE, WORKERS = "registry.example.org/sst-merge:1", 4

spec = make_cluster_spec(name="sst-merge", image=IMAGE, n_workers=WORKERS)
worker = spec["spec"]["worker"]["spec"]["containers"][0]
# One thread: a model serves one piece of work at a time.
worker["args"] = ["dask-worker", "--name", "$(DASK_WORKER_NAME)", "--nthreads", "1", "--resources", "GPU=1"]
worker["resources"] = {"limits": {"nvidia.com/gpu": 1, "memory": "48Gi"}}
worker["volumeMounts"] = [{"name": "shared", "mountPath": "/shared"}]
spec["spec"]["worker"]["spec"]["volumes"] = [{"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}}]

cluster = KubeCluster(custom_cluster_spec=spec, namespace="default", shutdown_on_close=False)
print(cluster.scheduler_address)
