// SPDX-License-Identifier: GPL-2.0

//! A client of QEMU's machine protocol.

use anyhow::{bail, Context, Result};
use serde_json::{json, Value};
use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// A connection on which one command at a time is in flight.
pub struct Qmp {
    stream: BufReader<UnixStream>,
    /// The part of the next line that was received.
    line: Vec<u8>,
    /// Events that no caller has waited for yet.
    events: VecDeque<Value>,
    /// How long QEMU may take for an answer.
    limit: Duration,
}

impl Qmp {
    /// Waits for QEMU's greeting and answers it.
    pub fn new(stream: UnixStream, limit: Duration) -> Result<Self> {
        let mut qmp = Self {
            stream: BufReader::new(stream),
            line: Vec::new(),
            events: VecDeque::new(),
            limit,
        };
        let greeting = qmp
            .receive(Instant::now() + limit)?
            .context("QEMU does not start")?;
        if greeting.get("QMP").is_none() {
            bail!("not a QMP greeting: {greeting}");
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its result.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let message = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{message}")
            .with_context(|| format!("QEMU does not take {command}"))?;
        let deadline = Instant::now() + self.limit;
        loop {
            let mut message = self
                .receive(deadline)
                .with_context(|| command.to_owned())?
                .with_context(|| format!("QEMU does not answer {command}"))?;
            if message.get("event").is_some() {
                self.events.push_back(message);
            } else if let Some(error) = message.get("error") {
                bail!("{command} {arguments}: {}", error["desc"]);
            } else {
                return Ok(message["return"].take());
            }
        }
    }

    /// Returns the next event, or `None` if there is none until `deadline`.
    pub fn event(&mut self, deadline: Instant) -> Result<Option<Value>> {
        match self.events.pop_front() {
            // Messages that are no events answer commands, and no command is in flight.
            None => self.receive(deadline),
            event => Ok(event),
        }
    }

    /// Receives a message, or `None` if there is none until `deadline`.
    fn receive(&mut self, deadline: Instant) -> Result<Option<Value>> {
        loop {
            // A timeout of zero would mean no timeout.
            let left = deadline
                .saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1));
            self.stream.get_ref().set_read_timeout(Some(left))?;
            match self.stream.read_until(b'\n', &mut self.line) {
                Ok(_) if self.line.last() == Some(&b'\n') => {
                    let message = serde_json::from_slice(&self.line)?;
                    self.line.clear();
                    return Ok(Some(message));
                }
                Ok(_) => bail!("QEMU closed the connection"),
                // What was received stays in the line.
                Err(err) if err.kind() == ErrorKind::WouldBlock => {}
                Err(err) => return Err(err.into()),
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }
}
