//! Removes the directories of local volumes on every node: here by itself, elsewhere by asking the node's kubelet through
//! the API server.

use std::path::Path;

use async_trait::async_trait;
use controllers::{LocalDirectories, OwnMachine};

pub struct Everywhere {
    pub own: OwnMachine,
    /// Of an administrator: who may pass requests on to kubelets.
    pub client: kube::Client,
}

#[async_trait]
impl LocalDirectories for Everywhere {
    async fn remove(&self, node: &str, directory: &Path) -> Result<(), String> {
        if node == self.own.node_name {
            return self.own.remove(node, directory).await;
        }
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = format!("/api/v1/nodes/{node}/proxy/localVolumes/{name}");
        let request = http::Request::delete(path).body(Vec::new()).map_err(|cause| cause.to_string())?;
        match self.client.request_text(request).await {
            Ok(_) => Ok(()),
            // Never made there, gone already, or gone with its node.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(cause) => Err(format!("directory {} on node \"{node}\": {cause}", directory.display())),
        }
    }
}
