//! A client that asks several addresses again and again, each request on a connection of its own, and tells how each
//! went: `<milliseconds since 1970> <number of the address> <ok|failed> <milliseconds it took>`.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

const PATIENCE: Duration = Duration::from_secs(1);

/// Until nobody reads any more.
pub async fn ask(every: Duration, addresses: Vec<String>) -> std::io::Result<()> {
    let (told, mut lines) = tokio::sync::mpsc::channel::<String>(1024);
    for (number, address) in addresses.into_iter().enumerate() {
        let told = told.clone();
        tokio::spawn(async move {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
                let started = Instant::now();
                let answered = timeout(PATIENCE, get(&address)).await.is_ok_and(|answer| answer.unwrap_or(false));
                let outcome = if answered { "ok" } else { "failed" };
                let line = format!("{at} {number} {outcome} {}", started.elapsed().as_millis());
                if told.send(line).await.is_err() {
                    return;
                }
            }
        });
    }
    drop(told);
    let mut output = std::io::stdout().lock();
    while let Some(line) = lines.recv().await {
        writeln!(output, "{line}")?;
        output.flush()?;
    }
    Ok(())
}

async fn get(address: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.get(9..12) == Some(b"200"))
}
