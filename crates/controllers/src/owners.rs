//! Controller references: who owns what, and taking in or letting go what selectors say.
//!
//! Invariant: an object has at most one controller. A controller adopts only what has none, matches its
//! selector and is not being deleted, and only while it is not being deleted itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::LabelSelector;
use client::{Cached, Change, Informer, ObjectKey, Patch};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use crate::context::{Context, Object};
use crate::failure::{Failure, ignore_not_found};
use crate::runner::Queue;

/// The index of objects without controller, by namespace.
const ORPHANS: &str = "orphans";

pub(crate) fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

pub(crate) fn is_controlled_by(metadata: &ObjectMeta, uid: &str) -> bool {
    controller_of(metadata).is_some_and(|owner| owner.uid == uid)
}

pub(crate) fn controller_reference<K: Object>(owner: &K) -> OwnerReference {
    let metadata = owner.meta();
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Queues the controller of whatever changes, by kind; `matching` names those who may adopt an orphan.
pub(crate) fn watch_owned<K: Object>(
    informer: &Informer<K>,
    owner: (&'static str, &'static str),
    queue: &Queue,
    matching: impl Fn(&K) -> Vec<ObjectKey> + Send + Sync + 'static,
) {
    let queue = queue.clone();
    informer.subscribe(move |change: &Change<K>| {
        let new = change.object();
        let owner_key = |object: &K| {
            let reference = controller_of(object.meta())?;
            let (kind, group) = owner;
            let matches = reference.kind == kind && group_of(&reference.api_version) == group;
            matches.then(|| ObjectKey::new(object.meta().namespace.clone().unwrap_or_default(), reference.name.clone()))
        };
        if let Some(old) = change.old()
            && let Some(key) = owner_key(old)
            && controller_of(old.meta()).map(|owner| &owner.uid) != controller_of(new.meta()).map(|owner| &owner.uid)
        {
            queue.add(key);
        }
        if let Some(key) = owner_key(new) {
            queue.add(key);
        } else if controller_of(new.meta()).is_none() && !matches!(change, Change::Deleted(_)) {
            for key in matching(new) {
                queue.add(key);
            }
        }
    });
}

pub(crate) fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// Declares the index that `candidates` reads.
pub(crate) fn index_orphans<K: Object>(informer: &Informer<K>) {
    informer.index_by(ORPHANS, |object: &K| {
        let orphan = controller_of(object.meta()).is_none();
        orphan.then(|| object.meta().namespace.clone().unwrap_or_default()).into_iter().collect()
    });
}

/// What the owner controls, and the orphans of its namespace that it might.
pub(crate) fn candidates<K: Object>(informer: &Informer<K>, owner: &ObjectMeta) -> Vec<Arc<K>> {
    let mut found = informer.owned_by(owner.uid.as_deref().unwrap_or_default());
    found.extend(informer.indexed(ORPHANS, owner.namespace.as_deref().unwrap_or_default()));
    found
}

/// What to do about one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Keep,
    Adopt,
    Release,
    Ignore,
}

pub(crate) fn claim(owner: &ObjectMeta, object: &ObjectMeta, matches: bool) -> Claim {
    let owner_deleting = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_deleting || !matches || object.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Adopts and releases among `candidates`; yields what the owner controls afterwards.
pub(crate) async fn claim_all<K: Object, O: Object>(
    context: &Context,
    owner: &O,
    selector: &LabelSelector,
    candidates: Vec<Arc<K>>,
) -> Result<Vec<Arc<K>>, Failure> {
    claim_all_with(context, owner, selector, candidates, None).await
}

/// As `claim_all`; what is adopted gets `finalizer`, what is released loses it.
pub(crate) async fn claim_all_with<K: Object, O: Object>(
    context: &Context,
    owner: &O,
    selector: &LabelSelector,
    candidates: Vec<Arc<K>>,
    finalizer: Option<&str>,
) -> Result<Vec<Arc<K>>, Failure> {
    let mut kept = Vec::with_capacity(candidates.len());
    let mut recheck = None;
    let mut failure = None;
    for object in candidates {
        let outcome = match claim(owner.meta(), object.meta(), matches(selector, object.meta())) {
            Claim::Ignore => continue,
            Claim::Keep => {
                kept.push(object);
                continue;
            }
            Claim::Adopt => {
                if recheck.is_none() {
                    recheck = Some(still_there(context, owner).await?);
                }
                if recheck == Some(false) {
                    continue;
                }
                adopt(context, owner, &*object, finalizer).await
            }
            Claim::Release => release(context, owner, &*object, finalizer).await.map(|()| None),
        };
        match outcome {
            Ok(Some(adopted)) => kept.push(Arc::new(adopted)),
            Ok(None) => {}
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(kept),
    }
}

pub(crate) fn matches(selector: &LabelSelector, metadata: &ObjectMeta) -> bool {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    selector.matches(metadata.labels.as_ref().unwrap_or(&NONE))
}

/// Asks the server, not the cache: a stale owner must neither adopt nor make anything for its dead self. What is made
/// for the dead the garbage collector takes away at once, and so on for as long as the cache is late.
pub(crate) async fn still_there<O: Object>(context: &Context, owner: &O) -> Result<bool, Failure> {
    let fresh = ignore_not_found(context.rest.get::<O>(&ObjectKey::of(owner.meta())).await)?;
    Ok(fresh.is_some_and(|fresh| fresh.meta().uid == owner.meta().uid && fresh.meta().deletion_timestamp.is_none()))
}

async fn adopt<K: Object, O: Object>(context: &Context, owner: &O, object: &K, finalizer: Option<&str>) -> Result<Option<K>, Failure> {
    let mut patch = json!({"metadata": {
        "ownerReferences": [controller_reference(owner)],
        "uid": Cached::uid(object),
    }});
    if let Some(finalizer) = finalizer {
        patch["metadata"]["finalizers"] = json!([finalizer]);
    }
    match context.patch::<K>(&ObjectKey::of(object.meta()), &Patch::Strategic(patch)).await {
        Ok(adopted) => Ok(Some(adopted)),
        Err(error) if gone_or_replaced(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn release<K: Object, O: Object>(context: &Context, owner: &O, object: &K, finalizer: Option<&str>) -> Result<(), Failure> {
    let mut patch = json!({"metadata": {
        "ownerReferences": [{"$patch": "delete", "uid": owner.meta().uid}],
        "uid": Cached::uid(object),
    }});
    if let Some(finalizer) = finalizer {
        patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    match context.patch::<K>(&ObjectKey::of(object.meta()), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(()),
        Err(error) if gone_or_replaced(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn gone_or_replaced(error: &kube::Error) -> bool {
    use client::ErrorKind::{Invalid, NotFound};
    matches!(client::error_kind(error), NotFound | Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn metadata(uid: &str, owner: &str, deleting: bool) -> ObjectMeta {
        let owner_references = (!owner.is_empty())
            .then(|| vec![OwnerReference { uid: owner.into(), controller: Some(true), ..OwnerReference::default() }]);
        ObjectMeta {
            uid: Some(uid.into()),
            owner_references,
            deletion_timestamp: deleting.then_some(Time(jiff::Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        }
    }

    #[track_caller]
    fn check(owner_deleting: bool, controller: &str, object_deleting: bool, matches: bool, expected: Claim) {
        let owner = metadata("me", "", owner_deleting);
        let object = metadata("object", controller, object_deleting);
        assert_eq!(claim(&owner, &object, matches), expected);
    }

    #[test]
    fn claims_as_selectors_and_references_say() {
        //    owner del. controller object del. matches
        check(false, "me", false, true, Claim::Keep);
        check(false, "me", true, true, Claim::Keep);
        check(false, "me", false, false, Claim::Release);
        check(true, "me", false, false, Claim::Ignore);
        check(false, "other", false, true, Claim::Ignore);
        check(false, "", false, true, Claim::Adopt);
        check(false, "", true, true, Claim::Ignore);
        check(true, "", false, true, Claim::Ignore);
        check(false, "", false, false, Claim::Ignore);
    }
}
