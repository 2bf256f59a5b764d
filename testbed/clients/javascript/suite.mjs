// What the JavaScript client does with a cluster: run as `suite.mjs KUBECONFIG NAMESPACE`.

import assert from "node:assert";
import * as k8s from "@kubernetes/client-node";

const [kubeconfig, namespace] = process.argv.slice(2);
const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);
const core = config.makeApiClient(k8s.CoreV1Api);

const configMap = (name, data) => ({ metadata: { name, labels: { suite: "javascript" } }, data });
const until = async (done) => {
  for (let tries = 0; tries < 200 && !done(); tries++) await new Promise((wake) => setTimeout(wake, 50));
  assert(done(), "in time");
};

const tests = {
  async objects() {
    const created = await core.createNamespacedConfigMap({ namespace, body: configMap("a", { color: "blue" }) });
    assert(created.metadata.creationTimestamp instanceof Date);
    created.data.color = "red";
    const replaced = await core.replaceNamespacedConfigMap({ namespace, name: "a", body: created });
    assert.deepEqual(replaced.data, { color: "red" });
    const list = await core.listNamespacedConfigMap({ namespace, labelSelector: "suite=javascript" });
    assert.deepEqual(list.items.map((item) => item.metadata.name), ["a"]);
    await core.deleteNamespacedConfigMap({ namespace, name: "a" });
    await assert.rejects(core.readNamespacedConfigMap({ namespace, name: "a" }), { code: 404 });
  },

  async patches() {
    await core.createNamespacedConfigMap({ namespace, body: configMap("p", { a: "1" }) });
    const patch = [{ op: "add", path: "/data/b", value: "2" }];
    const json = k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy.JsonPatch);
    const patched = await core.patchNamespacedConfigMap({ namespace, name: "p", body: patch }, json);
    assert.deepEqual(patched.data, { a: "1", b: "2" });
    const strategic = k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy.StrategicMergePatch);
    const merged = await core.patchNamespacedConfigMap({ namespace, name: "p", body: { data: { a: null } } }, strategic);
    assert.deepEqual(merged.data, { b: "2" });
    await core.deleteNamespacedConfigMap({ namespace, name: "p" });
  },

  async informer() {
    const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: "suite=javascript" });
    const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, list, "suite=javascript");
    const seen = [];
    for (const verb of ["add", "update", "delete"]) informer.on(verb, (object) => seen.push(`${verb} ${object.metadata.name}`));
    informer.on("error", (problem) => seen.push(`error ${problem}`));
    await informer.start();
    const created = await core.createNamespacedConfigMap({ namespace, body: configMap("w", { x: "1" }) });
    await until(() => seen.length === 1);
    created.data.x = "2";
    await core.replaceNamespacedConfigMap({ namespace, name: "w", body: created });
    await until(() => seen.length === 2);
    await core.deleteNamespacedConfigMap({ namespace, name: "w" });
    await until(() => seen.length === 3);
    assert.deepEqual(seen, ["add w", "update w", "delete w"]);
    await informer.stop();
  },

  async applied() {
    const objects = k8s.KubernetesObjectApi.makeApiClient(config);
    const manifest = { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "s", namespace }, data: { color: "blue" } };
    const apply = (body, manager) =>
      objects.patch(body, undefined, undefined, manager, undefined, k8s.PatchStrategy.ServerSideApply);
    assert.equal((await apply(manifest, "one")).data.color, "blue");
    const other = { ...manifest, data: { color: "red" } };
    await assert.rejects(apply(other, "two"), { code: 409 });
    await objects.delete(manifest);
  },
};

await core.createNamespace({ body: { metadata: { name: namespace } } });
for (const [name, test] of Object.entries(tests)) {
  console.log(name);
  await test();
}
console.log("all passed");
process.exit(0);
