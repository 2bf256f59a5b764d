//! `images`: other names, tags and digests for the images that containers run.

use serde_json::Value;

use super::document::Image;
use super::resource::Resource;

const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

pub fn run(images: &[Image], resources: &mut [Resource]) {
    for image in images {
        // The schema of a kind has such fields that are no containers.
        for resource in resources.iter_mut().filter(|resource| resource.current().kind != "CustomResourceDefinition") {
            find(&mut resource.object, image);
        }
    }
}

fn find(value: &mut Value, image: &Image) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                if CONTAINERS.contains(&name.as_str())
                    && let Some(containers) = inner.as_array_mut()
                {
                    for container in containers {
                        if let Some(current) = container.get("image").and_then(Value::as_str)
                            && let Some(new) = changed(current, image)
                        {
                            container["image"] = new.into();
                        }
                    }
                }
                find(inner, image);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| find(item, image)),
        _ => {}
    }
}

/// Name, tag with its colon, digest with its at sign.
fn split(image: &str) -> (&str, &str, &str) {
    let (rest, digest) = image.find('@').map_or((image, ""), |at| image.split_at(at));
    // A colon before a slash belongs to the registry's port.
    let after_slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = rest[after_slash..].find(':').map_or((rest, ""), |at| rest.split_at(after_slash + at));
    (name, tag, digest)
}

fn changed(current: &str, image: &Image) -> Option<String> {
    let (name, mut tag, mut digest) = split(current);
    if name != image.name {
        return None;
    }
    let name = if image.new_name.is_empty() { name } else { &image.new_name };
    let (new_tag, new_digest, suffixed);
    if !image.new_tag.is_empty() && !image.digest.is_empty() {
        new_tag = format!(":{}", image.new_tag);
        new_digest = format!("@{}", image.digest);
        (tag, digest) = (&new_tag, &new_digest);
    } else if !image.new_tag.is_empty() {
        new_tag = format!(":{}", image.new_tag);
        (tag, digest) = (&new_tag, "");
    } else if !image.digest.is_empty() {
        new_digest = format!("@{}", image.digest);
        (tag, digest) = ("", &new_digest);
    }
    if !image.tag_suffix.is_empty() && digest.is_empty() {
        suffixed = format!("{}{}", if tag.is_empty() { ":latest" } else { tag }, image.tag_suffix);
        tag = &suffixed;
    }
    Some(format!("{name}{tag}{digest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_change_by_name() {
        #[track_caller]
        fn check(current: &str, image: Image, expected: Option<&str>) {
            assert_eq!(changed(current, &image).as_deref(), expected);
        }
        let image = |name: &str, new_name: &str, new_tag: &str, digest: &str| Image {
            name: name.to_owned(), new_name: new_name.to_owned(), new_tag: new_tag.to_owned(), digest: digest.to_owned(), tag_suffix: String::new(),
        };
        check("nginx:1.14", image("nginx", "", "1.25", ""), Some("nginx:1.25"));
        check("nginx", image("nginx", "mirror/nginx", "", ""), Some("mirror/nginx"));
        check("nginx:1", image("nginx", "a", "", ""), Some("a:1"));
        check("nginx:1", image("nginx", "", "", "sha256:x"), Some("nginx@sha256:x"));
        check("nginx@sha256:y", image("nginx", "", "2", ""), Some("nginx:2"));
        check("r:5000/nginx:1", image("r:5000/nginx", "", "2", ""), Some("r:5000/nginx:2"));
        check("other/nginx:1", image("nginx", "", "2", ""), None);
    }
}
