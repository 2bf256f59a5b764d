"""What the Python client does with a cluster: run as `suite.py KUBECONFIG NAMESPACE`.

Each test prints its name; the first that fails ends the run with its traceback.
"""

import datetime
import sys
import tempfile
import threading
import uuid

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock

KUBECONFIG, NAMESPACE = sys.argv[1:3]


def config_map(name, **data):
    metadata = client.V1ObjectMeta(name=name, labels={"suite": "python"})
    return client.V1ConfigMap(metadata=metadata, data=data)


def deployment(name):
    container = client.V1Container(name="main", image="nginx:1.16", ports=[client.V1ContainerPort(container_port=80)])
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels={"app": name}), spec=client.V1PodSpec(containers=[container])
    )
    spec = client.V1DeploymentSpec(
        replicas=0, selector=client.V1LabelSelector(match_labels={"app": name}), template=template
    )
    return client.V1Deployment(metadata=client.V1ObjectMeta(name=name), spec=spec)


def refused(code, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except ApiException as refusal:
        assert refusal.status == code, refusal
        return refusal
    raise AssertionError(f"{call} was not refused")


def version():
    assert client.VersionApi().get_code().minor == "35"


def core():
    core = client.CoreV1Api()
    created = core.create_namespaced_config_map(NAMESPACE, config_map("a", color="blue"))
    assert isinstance(created.metadata.creation_timestamp, datetime.datetime)
    refused(409, core.create_namespaced_config_map, NAMESPACE, config_map("a"))
    created.data["color"] = "red"
    replaced = core.replace_namespaced_config_map("a", NAMESPACE, created)
    assert replaced.data == {"color": "red"}
    refused(409, core.replace_namespaced_config_map, "a", NAMESPACE, created)
    listed = core.list_namespaced_config_map(NAMESPACE, label_selector="suite=python")
    assert [item.metadata.name for item in listed.items] == ["a"]
    status = core.delete_namespaced_config_map("a", NAMESPACE)
    assert status.status == "Success", status
    missing = refused(404, core.read_namespaced_config_map, "a", NAMESPACE)
    assert 'configmaps \\"a\\" not found' in missing.body, missing.body


def apps_and_batch():
    apps = client.AppsV1Api()
    apps.create_namespaced_deployment(NAMESPACE, deployment("web"))
    scale = apps.read_namespaced_deployment_scale("web", NAMESPACE)
    assert not scale.spec.replicas  # Zero is not written
    apps.patch_namespaced_deployment_scale("web", NAMESPACE, {"spec": {"replicas": 1}})
    assert apps.read_namespaced_deployment("web", NAMESPACE).spec.replicas == 1
    apps.delete_namespaced_deployment("web", NAMESPACE, propagation_policy="Background")
    batch = client.BatchV1Api()
    container = client.V1Container(name="main", image="busybox", command=["true"])
    pod = client.V1PodSpec(containers=[container], restart_policy="Never")
    job = client.V1JobTemplateSpec(spec=client.V1JobSpec(template=client.V1PodTemplateSpec(spec=pod)))
    cron = client.V1CronJob(
        metadata=client.V1ObjectMeta(name="nightly"),
        spec=client.V1CronJobSpec(schedule="0 0 * * *", job_template=job, suspend=True),
    )
    created = batch.create_namespaced_cron_job(NAMESPACE, cron)
    assert created.spec.concurrency_policy == "Allow"
    batch.delete_namespaced_cron_job("nightly", NAMESPACE)


def patches():
    core = client.CoreV1Api()
    core.create_namespaced_config_map(NAMESPACE, config_map("p", a="1", b="2"))
    merged = core.patch_namespaced_config_map("p", NAMESPACE, {"data": {"a": None, "c": "3"}})
    assert merged.data == {"b": "2", "c": "3"}, merged.data
    patched = core.patch_namespaced_config_map("p", NAMESPACE, [{"op": "add", "path": "/data/d", "value": "4"}])
    assert patched.data["d"] == "4"
    core.delete_namespaced_config_map("p", NAMESPACE)


def watching():
    core = client.CoreV1Api()
    start = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    seen = []

    def write():
        core.create_namespaced_config_map(NAMESPACE, config_map("w"))
        core.patch_namespaced_config_map("w", NAMESPACE, {"data": {"x": "y"}})
        core.delete_namespaced_config_map("w", NAMESPACE)

    writer = threading.Thread(target=write)
    writer.start()
    stream = watch.Watch()
    options = {"resource_version": start, "timeout_seconds": 20, "label_selector": "suite=python"}
    for event in stream.stream(core.list_namespaced_config_map, NAMESPACE, **options):
        seen.append((event["type"], event["object"].metadata.name))
        if event["type"] == "DELETED":
            stream.stop()
    writer.join()
    assert seen == [("ADDED", "w"), ("MODIFIED", "w"), ("DELETED", "w")], seen


def pages():
    core = client.CoreV1Api()
    for number in range(7):
        core.create_namespaced_config_map(NAMESPACE, config_map(f"page-{number}"))
    names, token = [], None
    while True:
        page = core.list_namespaced_config_map(NAMESPACE, label_selector="suite=python", limit=3, _continue=token)
        assert len(page.items) <= 3
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"page-{number}" for number in range(7)], names
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="suite=python")
    assert not core.list_namespaced_config_map(NAMESPACE, label_selector="suite=python").items


def dynamic_and_server_side_apply():
    api = dynamic.DynamicClient(client.ApiClient())
    maps = api.resources.get(api_version="v1", kind="ConfigMap")
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"color": "blue"}}
    applied = api.server_side_apply(maps, body=manifest, name="applied", namespace=NAMESPACE, field_manager="one")
    assert applied.data.color == "blue"
    manifest["data"]["color"] = "red"
    arguments = {"body": manifest, "name": "applied", "namespace": NAMESPACE, "field_manager": "two"}
    try:
        api.server_side_apply(maps, **arguments)
        raise AssertionError("no conflict")
    except dynamic.exceptions.ConflictError as conflict:
        assert b'conflict with \\"one\\"' in conflict.body or 'conflict with \\"one\\"' in str(conflict.body), conflict.body
    forced = api.server_side_apply(maps, force_conflicts=True, **arguments)
    assert forced.data.color == "red"
    deployments = api.resources.get(api_version="apps/v1", kind="Deployment")
    assert deployments.get(namespace=NAMESPACE).items == []
    maps.delete(name="applied", namespace=NAMESPACE)


def from_yaml():
    text = """
apiVersion: v1
kind: Secret
metadata: {name: from-yaml}
stringData: {key: value}
---
apiVersion: v1
kind: Service
metadata: {name: from-yaml}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        utils.create_from_yaml(client.ApiClient(), file.name, namespace=NAMESPACE)
    core = client.CoreV1Api()
    assert core.read_namespaced_secret("from-yaml", NAMESPACE).data == {"key": "dmFsdWU="}
    service = core.read_namespaced_service("from-yaml", NAMESPACE)
    assert service.spec.cluster_ip and service.spec.ports[0].target_port == 80
    core.delete_namespaced_service("from-yaml", NAMESPACE)
    core.delete_namespaced_secret("from-yaml", NAMESPACE)


def leader_election():
    led = threading.Event()
    # The lock lies in a ConfigMap; who leads works on until it is done.
    settings = electionconfig.Config(
        ConfigMapLock("leader", NAMESPACE, str(uuid.uuid4())),
        lease_duration=17,
        renew_deadline=15,
        retry_period=5,
        onstarted_leading=led.set,
        onstopped_leading=None,
    )
    threading.Thread(target=leaderelection.LeaderElection(settings).run, daemon=True).start()
    assert led.wait(20), "nobody leads"
    record = client.CoreV1Api().read_namespaced_config_map("leader", NAMESPACE)
    assert "control-plane.alpha.kubernetes.io/leader" in record.metadata.annotations


def access():
    review = client.V1SelfSubjectAccessReview(
        spec=client.V1SelfSubjectAccessReviewSpec(
            resource_attributes=client.V1ResourceAttributes(verb="create", resource="pods", namespace=NAMESPACE)
        )
    )
    assert client.AuthorizationV1Api().create_self_subject_access_review(review).status.allowed
    core = client.CoreV1Api()
    core.create_namespaced_service_account(NAMESPACE, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="robot")))
    request = client.AuthenticationV1TokenRequest(
        spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600)
    )
    token = core.create_namespaced_service_account_token("robot", NAMESPACE, request).status.token
    settings = client.Configuration.get_default_copy()
    settings.cert_file = settings.key_file = None
    settings.api_key = {"authorization": f"Bearer {token}"}
    robot = client.CoreV1Api(client.ApiClient(settings))
    denied = refused(403, robot.list_namespaced_pod, NAMESPACE)
    assert f"system:serviceaccount:{NAMESPACE}:robot" in denied.body


def everything_is_readable():
    """The generated models refuse what lacks a required field."""
    core, apps, rbac = client.CoreV1Api(), client.AppsV1Api(), client.RbacAuthorizationV1Api()
    assert core.list_namespace().items and core.list_service_for_all_namespaces().items
    apps.list_deployment_for_all_namespaces()
    assert rbac.list_cluster_role().items and rbac.list_cluster_role_binding().items
    client.DiscoveryV1Api().list_endpoint_slice_for_all_namespaces()
    client.SchedulingV1Api().list_priority_class()
    client.FlowcontrolApiserverV1Api().list_flow_schema()
    client.StorageV1Api().list_storage_class()
    client.CoordinationV1Api().list_lease_for_all_namespaces()


TESTS = [
    version,
    core,
    apps_and_batch,
    patches,
    watching,
    pages,
    dynamic_and_server_side_apply,
    from_yaml,
    leader_election,
    access,
    everything_is_readable,
]

if __name__ == "__main__":
    config.load_kube_config(KUBECONFIG)
    client.CoreV1Api().create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    for test in TESTS:
        print(test.__name__, flush=True)
        test()
    print("all passed", flush=True)
    # Whoever leads goes on in the background; the process does not wait for it.
    sys.stdout.flush()
    import os

    os._exit(0)
