//! `testbed images DIR`: makes the images. `testbed registry DIR ADDRESS`: serves them until it is ended.
//! `testbed export DIR REPOSITORY TAG ARCHIVE`: writes one as an archive for `coracle image import`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["images", layout] => {
            let cache = Path::new(layout).join("packages");
            testbed::image::build_all(Path::new(layout), &cache, &|step| println!("testbed: {step}"))
        }
        ["export", layout, repository, tag, archive] => {
            testbed::image::export(Path::new(layout), repository, tag, Path::new(archive))
        }
        ["registry", layout, address] => serve(layout, address),
        _ => Err(std::io::Error::other(
            "usage: testbed images DIR | registry DIR ADDRESS | export DIR REPOSITORY TAG ARCHIVE",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("testbed: {cause}");
            ExitCode::FAILURE
        }
    }
}

fn serve(layout: &str, address: &str) -> std::io::Result<()> {
    let address = address.parse().map_err(std::io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let registry = testbed::registry::Registry::start(Path::new(layout), address).await?;
        println!("testbed: serving on {}", registry.address);
        registry.wait().await;
        Ok(())
    })
}
