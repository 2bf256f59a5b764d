//! What watches see.

use serde_json::{Value, json};

use super::{revision, told, watched};
use crate::harness::{TestServer, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn labelled(name: &str, label: &str) -> Value {
    let mut object = config_map(name);
    object["metadata"]["labels"] = json!({"watch-this": label});
    object
}

async fn mutate(server: &TestServer, name: &str, mutation: &str) -> Value {
    let patch = json!({"data": {"mutation": mutation}});
    server.patch(&format!("{MAPS}/{name}"), "merge", patch).await.expect(200)
}

// Conformance: [sig-api-machinery] Watchers should observe add, update, and delete watch notifications on configmaps
#[tokio::test(start_paused = true)]
async fn each_sees_what_it_selects() {
    let server = TestServer::start().await;
    let now = revision(&server.get(MAPS).await.expect(200));
    let watch = |selector: &str| format!("{MAPS}?resourceVersion={now}&labelSelector=watch-this{selector}");
    let work = async {
        server.post(MAPS, labelled("a", "A")).await.expect(201);
        mutate(&server, "a", "1").await;
        mutate(&server, "a", "2").await;
        server.delete(&format!("{MAPS}/a")).await.expect(200);
        server.post(MAPS, labelled("b", "B")).await.expect(201);
        server.delete(&format!("{MAPS}/b")).await.expect(200);
    };
    let (a, b, both) = (watch("=A"), watch("=B"), watch("%20in%20(A,B)"));
    let (a, b, both) = tokio::join!(
        watched(&server, &a, std::future::ready(())),
        watched(&server, &b, std::future::ready(())),
        watched(&server, &both, work),
    );
    assert_eq!(told(&a), "ADDED a, MODIFIED a, MODIFIED a, DELETED a");
    assert_eq!(told(&b), "ADDED b, DELETED b");
    assert_eq!(told(&both), "ADDED a, MODIFIED a, MODIFIED a, DELETED a, ADDED b, DELETED b");
    assert_eq!((&a[1].1["data"]["mutation"], &a[2].1["data"]["mutation"]), (&json!("1"), &json!("2")));
}

// Conformance: [sig-api-machinery] Watchers should be able to start watching from a specific resource version
#[tokio::test(start_paused = true)]
async fn from_a_revision_on() {
    let server = TestServer::start().await;
    server.post(MAPS, labelled("a", "A")).await.expect(201);
    let first = mutate(&server, "a", "1").await;
    mutate(&server, "a", "2").await;
    server.delete(&format!("{MAPS}/a")).await.expect(200);
    let path = format!("{MAPS}?labelSelector=watch-this=A&resourceVersion={}", revision(&first));
    let events = watched(&server, &path, std::future::ready(())).await;
    assert_eq!(told(&events), "MODIFIED a, DELETED a");
    assert_eq!(events[0].1["data"]["mutation"], "2");
}

// Conformance: [sig-api-machinery] Watchers should be able to restart watching from the last resource version observed by the previous watch
#[tokio::test(start_paused = true)]
async fn where_the_last_one_ended() {
    let server = TestServer::start().await;
    let now = revision(&server.get(MAPS).await.expect(200));
    let path = |revision: &str| format!("{MAPS}?labelSelector=watch-this=A&resourceVersion={revision}");
    let before = watched(&server, &path(&now), async {
        server.post(MAPS, labelled("a", "A")).await.expect(201);
        mutate(&server, "a", "1").await;
    })
    .await;
    assert_eq!(told(&before), "ADDED a, MODIFIED a");
    mutate(&server, "a", "2").await;
    let after = watched(&server, &path(&revision(&before[1].1)), async {
        server.delete(&format!("{MAPS}/a")).await.expect(200);
    })
    .await;
    assert_eq!(told(&after), "MODIFIED a, DELETED a");
}

// Conformance: [sig-api-machinery] Watchers should observe an object deletion if it stops meeting the requirements of the selector
#[tokio::test(start_paused = true)]
async fn what_is_selected_no_more_is_deleted() {
    let server = TestServer::start().await;
    let now = revision(&server.get(MAPS).await.expect(200));
    let label = async |label: &str| {
        let patch = json!({"metadata": {"labels": {"watch-this": label}}});
        server.patch(&format!("{MAPS}/a"), "merge", patch).await.expect(200);
    };
    let events = watched(&server, &format!("{MAPS}?labelSelector=watch-this=A&resourceVersion={now}"), async {
        server.post(MAPS, labelled("a", "A")).await.expect(201);
        mutate(&server, "a", "1").await;
        label("other").await;
        mutate(&server, "a", "2").await;
        label("A").await;
        mutate(&server, "a", "3").await;
        server.delete(&format!("{MAPS}/a")).await.expect(200);
    })
    .await;
    assert_eq!(told(&events), "ADDED a, MODIFIED a, DELETED a, ADDED a, MODIFIED a, DELETED a");
    assert_eq!(events[4].1["data"]["mutation"], "3");
}

// Conformance: [sig-api-machinery] Watchers should receive events on concurrent watches in same order
#[tokio::test(start_paused = true)]
async fn all_see_the_same_order() {
    let server = TestServer::start().await;
    let now = revision(&server.get(MAPS).await.expect(200));
    let all = watched(&server, &format!("{MAPS}?resourceVersion={now}"), async {
        for round in 0..30 {
            let name = format!("m{}", round % 7);
            match round % 3 {
                0 => drop(server.post(MAPS, config_map(&name)).await),
                1 => drop(server.patch(&format!("{MAPS}/{name}"), "merge", json!({"data": {"n": round.to_string()}})).await),
                _ => drop(server.delete(&format!("{MAPS}/{name}")).await),
            }
        }
    })
    .await;
    assert!(all.len() > 10);
    // Further watches, each from where an event was seen, see exactly what came after it.
    for (at, (_, object)) in all.iter().enumerate() {
        let path = format!("{MAPS}?resourceVersion={}", revision(object));
        let rest = watched(&server, &path, std::future::ready(())).await;
        let revisions = |events: &[(String, Value)]| events.iter().map(|(_, object)| revision(object)).collect::<Vec<_>>();
        assert_eq!(revisions(&rest), revisions(&all[at + 1..]));
    }
}
