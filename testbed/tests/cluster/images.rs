//! Pulling from a registry that asks for credentials, lies about its layers, or has nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use runtime::cri::{AuthConfig, CriError, ImageService};
use runtime::image::{ImageStore, RegistriesConfig};
use testbed::cluster::target;
use testbed::registry::Registry;

/// The registry, and a store that knows it as a mirror of docker.io; None where the images were not made.
async fn registry_and_store(directory: &Path) -> Option<(Registry, Arc<ImageStore>)> {
    if let Some(reason) = testbed::cluster::missing_images() {
        eprintln!("skipped: {reason}");
        return None;
    }
    let images = target().join("testbed");
    let registry = Registry::start(&images, SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("serves");
    let config = format!("mirrors:\n  docker.io:\n    endpoint: [\"http://{}\"]\n", registry.address);
    let registries = RegistriesConfig::parse(&config).expect("parses");
    Some((registry, ImageStore::open(directory, registries).expect("opens")))
}

#[tokio::test]
async fn an_image_is_pulled_through_a_mirror_kept_and_lent() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some((_registry, store)) = registry_and_store(directory.path()).await else { return };
    let (first, second) = tokio::join!(store.pull_image("nginx:1.16", &[]), store.pull_image("nginx:1.16", &[]));
    let id = first.expect("pulls");
    assert_eq!(id, second.expect("waits for the first"));
    store.pull_image("nginx:1.9.1", &[]).await.expect("pulls");
    let image = store.image_status("nginx:1.16").await.expect("answers").expect("is there");
    assert_eq!(image.repo_tags, ["docker.io/library/nginx:1.16"]);
    assert!(image.repo_digests[0].starts_with("docker.io/library/nginx@sha256:"), "{image:?}");
    assert!(!image.pinned && image.size > 1_000_000, "{image:?}");

    let rootfs = store.prepare_rootfs(&id, "c1").expect("lends");
    assert!(rootfs.lower_dirs[0].join("etc/nginx/nginx.conf").exists(), "the topmost layer comes first");
    assert_eq!(rootfs.config.config().as_ref().and_then(|it| it.stop_signal().clone()).as_deref(), Some("SIGQUIT"));
    store.remove_image("nginx:1.16").await.expect("removes");
    assert!(rootfs.lower_dirs.iter().all(|path| path.exists()), "a container's layers stay");
    store.release_rootfs("c1").expect("gives back");
    store.remove_image("nginx:1.9.1").await.expect("removes");
    assert!(rootfs.lower_dirs.iter().all(|path| !path.exists()), "unused layers go");
}

#[tokio::test]
async fn what_cannot_be_pulled_is_named_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some((_registry, store)) = registry_and_store(directory.path()).await else { return };
    match store.pull_image("nginx:12.34.56", &[]).await {
        Err(CriError::NotFound(text)) => assert!(
            text.starts_with(
                "failed to pull and unpack image \"docker.io/library/nginx:12.34.56\": failed to resolve reference"
            ) && text.ends_with("docker.io/library/nginx:12.34.56: not found"),
            "{text}"
        ),
        other => panic!("{other:?}"),
    }
    let broken = store.pull_image("broken/library/nginx:1.16", &[]).await.expect_err("is corrupt").to_string();
    assert!(broken.to_lowercase().contains("digest"), "{broken}");
    assert!(store.image_status("broken/library/nginx:1.16").await.expect("answers").is_none());
    let bad = store.pull_image("Nginx:1", &[]).await.expect_err("is no reference").to_string();
    assert!(bad.contains("invalid reference format"), "{bad}");
    assert_eq!(std::fs::read_dir(directory.path().join("ingest")).expect("lists").count(), 0);
}

#[tokio::test]
async fn a_private_registry_wants_credentials() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some((registry, store)) = registry_and_store(directory.path()).await else { return };
    let name = format!("{}/private/library/busybox:1.35", registry.address);
    assert!(store.pull_image(&name, &[]).await.is_err());
    let wrong = AuthConfig { username: "user".into(), password: "guess".into(), ..AuthConfig::default() };
    let right = AuthConfig { password: "secret".into(), ..wrong.clone() };
    assert!(store.pull_image(&name, std::slice::from_ref(&wrong)).await.is_err());
    store.pull_image(&name, &[wrong, right]).await.expect("the second fits");
}

#[tokio::test]
async fn an_imported_image_is_pinned() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some((_registry, store)) = registry_and_store(&directory.path().join("store")).await else { return };
    let archive = directory.path().join("busybox.tar");
    testbed::image::export(&target().join("testbed"), "library/busybox", "1.35", &archive).expect("exports");
    assert_eq!(store.import(archive).await.expect("imports"), ["docker.io/library/busybox:1.35"]);
    let image = store.image_status("busybox:1.35").await.expect("answers").expect("is there");
    assert!(image.pinned);
    let junk = directory.path().join("junk.tar");
    std::fs::write(&junk, b"this is no archive").expect("writes");
    assert!(store.import(junk).await.is_err());
}
