use std::path::Path;

use crate::fake::Play;

/// Files as `name: content`, separated by lines of `=== name`.
fn write(directory: &Path, files: &str) {
    for file in files.split("=== ").skip(1) {
        let (name, content) = file.split_once('\n').unwrap();
        let path = directory.join(name.trim());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

#[track_caller]
fn check(files: &str, expected: &str) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    write(&root, files);
    let shown = root.display().to_string();
    Play::new().check(&format!("kustomize {shown}/top"), &expected.replace("ROOT", &shown));
}

const CONFIG: &str = "=== base/kustomization.yaml\nresources: [all.yaml]\n=== base/all.yaml\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: blue}\n";
const POD: &str = "=== base/kustomization.yaml
resources: [pod.yaml]
configMapGenerator:
- name: settings
  literals: [color=blue]
=== base/pod.yaml
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: web
    image: nginx:1
    envFrom: [{configMapRef: {name: settings}}]
";

#[test]
fn bases_are_prefixed_labelled_and_annotated() {
    check(
        &format!("{CONFIG}=== top/kustomization.yaml\nresources: [../base]\nnamespace: prod\nnamePrefix: p-\nnameSuffix: -s\nlabels: [{{pairs: {{team: blue}}}}]\ncommonAnnotations: {{note: hello}}\n"),
        "apiVersion: v1\ndata:\n  x: blue\nkind: ConfigMap\nmetadata:\n  annotations:\n    note: hello\n  labels:\n    team: blue\n  name: p-a-s\n  namespace: prod\n",
    );
}

#[test]
fn generated_names_carry_a_hash_and_references_follow() {
    check(
        &format!("{POD}=== top/kustomization.yaml\nresources: [../base]\nnamePrefix: p-\nimages: [{{name: nginx, newTag: \"2\"}}]\n"),
        "apiVersion: v1\ndata:\n  color: blue\nkind: ConfigMap\nmetadata:\n  name: p-settings-SETTINGS_HASH\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: p-web\nspec:\n  containers:\n  - envFrom:\n    - configMapRef:\n        name: p-settings-SETTINGS_HASH\n    image: nginx:2\n    name: web\n"
            .replace("SETTINGS_HASH", "747dfcb89d")
            .as_str(),
    );
}

#[test]
fn the_same_base_twice_keeps_each_its_own() {
    let top = "=== one/kustomization.yaml\nresources: [../base]\nnamePrefix: one-\n=== two/kustomization.yaml\nresources: [../base]\nnamePrefix: two-\n=== top/kustomization.yaml\nresources: [../one, ../two]\ngeneratorOptions: {disableNameSuffixHash: true}\n";
    let base = POD.replace("  literals: [color=blue]\n", "  literals: [color=blue]\n  options: {disableNameSuffixHash: true}\n");
    let pod = |prefix: &str| format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {prefix}-web\nspec:\n  containers:\n  - envFrom:\n    - configMapRef:\n        name: {prefix}-settings\n    image: nginx:1\n    name: web\n");
    let map = |prefix: &str| format!("apiVersion: v1\ndata:\n  color: blue\nkind: ConfigMap\nmetadata:\n  name: {prefix}-settings\n");
    check(&format!("{base}{top}"), &[map("one"), map("two"), pod("one"), pod("two")].join("---\n"));
}

#[test]
fn patches_merge_replace_and_delete() {
    let top = |patches: &str| format!("{POD}=== top/kustomization.yaml\nresources: [../base]\npatches:\n{patches}");
    let pod = |rest: &str| format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n{rest}");
    let delete_map = "- patch: |-\n    apiVersion: v1\n    kind: ConfigMap\n    metadata: {name: settings}\n    $patch: delete\n";
    check(
        &top(&format!("{delete_map}- patch: |-\n    apiVersion: v1\n    kind: Pod\n    metadata: {{name: web}}\n    spec:\n      containers:\n      - name: web\n        image: other\n      - name: side\n        image: s\n")),
        &pod("  - envFrom:\n    - configMapRef:\n        name: settings\n    image: other\n    name: web\n  - image: s\n    name: side\n"),
    );
    check(
        &top(&format!("{delete_map}- target: {{kind: Pod, name: w.*}}\n  patch: '[{{\"op\": \"replace\", \"path\": \"/spec/containers/0\", \"value\": {{\"name\": \"x\"}}}}]'\n")),
        &pod("  - name: x\n"),
    );
}

#[test]
fn components_change_what_is_there() {
    check(
        &format!("{CONFIG}=== extra/kustomization.yaml\napiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nnameSuffix: -c\nconfigMapGenerator:\n- name: a\n  behavior: merge\n  literals: [z=1]\n  options: {{disableNameSuffixHash: true}}\n=== top/kustomization.yaml\nresources: [../base]\ncomponents: [../extra]\n"),
        "apiVersion: v1\ndata:\n  x: blue\n  z: \"1\"\nkind: ConfigMap\nmetadata:\n  name: a-c\n",
    );
}

const WEB: &str = "=== base/all.yaml
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {s: $(SERVICE)}}
spec:
  containers:
  - {name: web, image: x, args: [--to=$(SERVICE):$(PORT), $(PORT), $(OTHER), $$(SERVICE)]}
";

#[test]
fn vars_stand_for_fields_as_they_are_in_the_end() {
    let vars = "vars:\n- {name: SERVICE, objref: {kind: Service, name: web, apiVersion: v1}}\n- {name: PORT, objref: {kind: Service, name: web}, fieldref: {fieldpath: 'spec.ports[0].port'}}\n";
    let top = format!("{WEB}=== base/kustomization.yaml\nresources: [all.yaml]\n{vars}=== top/kustomization.yaml\nresources: [../base]\nnamePrefix: p-\n");
    let warning = "# Warning: 'vars' is deprecated. Please use 'replacements' instead. [EXPERIMENTAL] Run 'kustomize edit fix' to update your Kustomization automatically.\n";
    let service = "apiVersion: v1\nkind: Service\nmetadata:\n  name: p-web\nspec:\n  ports:\n  - port: 80\n---\n";
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n    s: p-web\n  name: p-web\nspec:\n  containers:\n  - args:\n    - --to=p-web:80\n    - 80\n    - $(OTHER)\n    - $(SERVICE)\n    image: x\n    name: web\n";
    check(&top, &format!("{warning}{service}{pod}"));
}

#[test]
fn builtin_transformers_go_where_they_are_told() {
    let transformers = "apiVersion: builtin\nkind: LabelTransformer\nmetadata: {name: l}\nlabels: {team: a}\nfieldSpecs: [{path: metadata/labels, create: true}]\n---\napiVersion: builtin\nkind: PrefixTransformer\nmetadata: {name: p}\nprefix: p-\nfieldSpecs: [{path: metadata/name}]\n---\napiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: pt}\ntarget: {kind: ConfigMap}\npatch: '[{\"op\": \"add\", \"path\": \"/data/z\", \"value\": \"1\"}]'\n";
    let made = |name: &str, data: &str| format!("apiVersion: v1\ndata:\n{data}  z: \"1\"\nkind: ConfigMap\nmetadata:\n  labels:\n    team: a\n  name: p-{name}\n");
    let generator = "apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: made}\nliterals: [b=c]\noptions: {disableNameSuffixHash: true}\n";
    check(
        &format!("{CONFIG}=== top/kustomization.yaml\nresources: [../base]\ngenerators: [g.yaml]\ntransformers: [t.yaml]\n=== top/t.yaml\n{transformers}=== top/g.yaml\n{generator}"),
        &[made("a", "  x: blue\n"), made("made", "  b: c\n")].join("---\n"),
    );
    check(
        &format!("{CONFIG}=== top/kustomization.yaml\nresources: [../base]\ntransformers:\n- |-\n  apiVersion: example.com/v1\n  kind: Mine\n  metadata: {{name: l}}\n"),
        "error: external plugins disabled; unable to load external plugin 'Mine'\n[exit code 1]\n",
    );
}

#[test]
fn what_is_wrong_is_named() {
    check("=== top/x\n", "error: unable to find one of 'kustomization.yaml', 'kustomization.yml' or 'Kustomization' in directory 'ROOT/top'\n[exit code 1]\n");
    check("=== top/kustomization.yaml\nnonsense: 1\n", "error: invalid Kustomization: json: unknown field \"nonsense\"\n[exit code 1]\n");
    check("=== top/kustomization.yaml\nhelmCharts: []\n", "error: ROOT/top/kustomization.yaml: the field \"helmCharts\" is not supported\n[exit code 1]\n");
    check(
        &format!("{CONFIG}=== top/kustomization.yaml\nresources: [../base, ../base]\n"),
        "error: accumulating resources: accumulation err='accumulating resources from '../base': 'ROOT/base' must resolve to a file': recursed merging from path 'ROOT/base': may not add resource with an already registered id: ConfigMap.v1.[noGrp]/a.[noNs]\n[exit code 1]\n",
    );
    check(
        "=== top/kustomization.yaml\nconfigMapGenerator: [{name: a, files: [../secret]}]\n=== secret\nx\n",
        "error: loading KV pairs: file sources: [../secret]: security; file 'ROOT/secret' is not in or below 'ROOT/top'\n[exit code 1]\n",
    );
    check("=== top/kustomization.yaml\nresources: [../top]\n", "error: accumulating resources: accumulation err='accumulating resources from '../top': 'ROOT/top' must resolve to a file': cycle detected: candidate root 'ROOT/top' contains visited root 'ROOT/top'\n[exit code 1]\n");
}
