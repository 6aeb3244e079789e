//! An [`Outbox`] stored in a file, driven by a task.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};

use super::{
    file::{FileStorage, FileWrite, StorageError},
    transport::{HttpTransport, RelayerClient, entropy, now},
};
use crate::{
    Addressee, Command, Enqueue, EntryState, EntryView, HttpAnswer, IdempotencyKey, Outbox, OutboxConfig, OutboxError,
    Outcome, Submit, Transport, TransportError,
};

/// Capacity of the queues of messages to the task, and of outcomes from it.
const QUEUE: usize = 1_024;

/// Failure of an outbox operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DurableOutboxError {
    /// The file can't be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The file holds entries for another relayer. Open it for that one until it is empty; or pin an identity that both
    /// addresses share ([`Client::identities`](crate::Client::identities)), if it is the same relayer; or use
    /// another file.
    #[error("the outbox file holds {entries} entries for the relayer at {url}, and is opened for another one")]
    OtherRelayer {
        /// Number of such entries.
        entries: usize,
        /// Address of one of them.
        url: String,
    },
    /// The request was refused.
    #[error(transparent)]
    Refused(#[from] OutboxError),
    /// The outbox is closed.
    #[error("the outbox is closed")]
    Closed,
}

/// Outcomes of entries, as they arrive; unacknowledged ones are delivered again after the next start.
pub type Outcomes = mpsc::Receiver<(IdempotencyKey, Outcome)>;

enum Message {
    Enqueue(Box<Submit>, Enqueue, oneshot::Sender<Result<IdempotencyKey, OutboxError>>),
    Acknowledge(IdempotencyKey),
    Withdraw(IdempotencyKey, oneshot::Sender<bool>),
    Entries(oneshot::Sender<Vec<EntryView>>),
}

/// Durable requests: they survive this process.
///
/// ```no_run
/// use slackwater_client::{DurableOutbox, Enqueue, RelayerClient, Submit};
///
/// # async fn example(submit: Submit) -> Result<(), Box<dyn std::error::Error>> {
/// let client = RelayerClient::new("https://relayer.example")?;
/// let (outbox, mut outcomes) = DurableOutbox::open("outbox", &client, Default::default())?;
/// let key = outbox.enqueue(submit, Enqueue::default()).await?; // on disk: it will be sent, whatever happens
/// while let Some((key, outcome)) = outcomes.recv().await {
///     println!("{key}: {outcome:?}"); // write down what it means, then:
///     outbox.acknowledge(key).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DurableOutbox {
    messages: mpsc::Sender<Message>,
    task: JoinHandle<()>,
}

impl DurableOutbox {
    /// Opens the file at `path` and resumes its entries. Must be called in a `tokio` runtime. Dropping the outbox stops
    /// everything immediately; nothing is lost.
    ///
    /// Entries belong to the relayer of `client`: to its pinned identities or, if none are pinned, to its address.
    /// Entries of an earlier version, which name no relayer, are assigned to this one.
    ///
    /// # Errors
    /// [`DurableOutboxError::Storage`], also if records can't be read; [`DurableOutboxError::OtherRelayer`], before
    /// anything is sent.
    pub fn open(
        path: impl AsRef<Path>,
        client: &RelayerClient,
        config: OutboxConfig,
    ) -> Result<(Self, Outcomes), DurableOutboxError> {
        let storage = FileStorage::open(path)?;
        let addressee = Addressee::new(client.transport().url(), client.pinned().iter().copied());
        let mut outbox = Outbox::new(config).addressed_to(addressee);
        let report = outbox.load(now(), storage.records());
        if !report.damaged.is_empty() {
            let keys = report.damaged.join(", ");
            let error = std::io::Error::other(format!("records can't be read: {keys}"));
            return Err(StorageError::Io(error).into());
        }
        if let Some(url) = report.foreign.first() {
            return Err(DurableOutboxError::OtherRelayer { entries: report.foreign.len(), url: url.clone() });
        }
        let (messages, inbox) = mpsc::channel(QUEUE);
        let (outcomes, receiver) = mpsc::channel(QUEUE);
        let driver = Driver {
            outbox,
            transport: client.transport().clone(),
            storage: Some(storage),
            inbox,
            outcomes,
            reports: VecDeque::new(),
            waiting: BTreeMap::new(),
            writes: Vec::new(),
            calls: JoinSet::new(),
        };
        Ok((Self { messages, task: tokio::spawn(driver.run()) }, receiver))
    }

    /// Accepts a request. When this returns it is on disk, and will be sent until it ends.
    ///
    /// # Errors
    /// [`DurableOutboxError::Refused`], [`DurableOutboxError::Closed`].
    pub async fn enqueue(&self, submit: Submit, options: Enqueue) -> Result<IdempotencyKey, DurableOutboxError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Enqueue(Box::new(submit), options, reply)).await?;
        Ok(answer.await.map_err(|_| DurableOutboxError::Closed)??)
    }

    /// Confirms that the outcome of this entry was processed, and forgets the entry.
    ///
    /// # Errors
    /// [`DurableOutboxError::Closed`].
    pub async fn acknowledge(&self, key: IdempotencyKey) -> Result<(), DurableOutboxError> {
        self.tell(Message::Acknowledge(key)).await
    }

    /// Withdraws an entry that was certainly never sent; see [`Outbox::withdraw`].
    ///
    /// # Errors
    /// [`DurableOutboxError::Closed`].
    pub async fn withdraw(&self, key: IdempotencyKey) -> Result<bool, DurableOutboxError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Withdraw(key, reply)).await?;
        answer.await.map_err(|_| DurableOutboxError::Closed)
    }

    /// All entries.
    ///
    /// # Errors
    /// [`DurableOutboxError::Closed`].
    pub async fn entries(&self) -> Result<Vec<EntryView>, DurableOutboxError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Entries(reply)).await?;
        answer.await.map_err(|_| DurableOutboxError::Closed)
    }

    async fn tell(&self, message: Message) -> Result<(), DurableOutboxError> {
        self.messages.send(message).await.map_err(|_| DurableOutboxError::Closed)
    }

    /// Finishes writes and stops. Calls in progress are aborted, and repeated after the next start.
    pub async fn close(self) {
        drop(self.messages);
        let _ = self.task.await;
    }
}

struct Driver {
    outbox: Outbox,
    transport: HttpTransport,
    /// `None` during a write.
    storage: Option<FileStorage>,
    inbox: mpsc::Receiver<Message>,
    outcomes: mpsc::Sender<(IdempotencyKey, Outcome)>,
    /// Outcomes waiting for room in the receiver's queue.
    reports: VecDeque<(IdempotencyKey, Outcome)>,
    /// Callers waiting for their record to be on disk.
    waiting: BTreeMap<IdempotencyKey, Vec<oneshot::Sender<Result<IdempotencyKey, OutboxError>>>>,
    writes: Vec<Command>,
    calls: JoinSet<(u64, Result<HttpAnswer, TransportError>)>,
}

impl Driver {
    async fn run(mut self) {
        loop {
            self.take_commands();
            if !self.writes.is_empty() {
                if !self.write().await {
                    return;
                }
                continue;
            }
            let pause = self.outbox.next_timeout().map_or(Duration::from_secs(3_600), |at| at.since(now()));
            let outcomes = self.outcomes.clone();
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => {
                        self.take_message(message);
                        // All messages that have arrived share one write.
                        while let Ok(message) = self.inbox.try_recv() {
                            self.take_message(message);
                        }
                    }
                    None => return,
                },
                Some(done) = self.calls.join_next() => match done {
                    Ok((send, answer)) => self.outbox.answered(now(), send, answer, entropy()),
                    Err(error) => {
                        if let Ok(panic) = error.try_into_panic() {
                            std::panic::resume_unwind(panic);
                        }
                    }
                },
                permit = outcomes.reserve(), if !self.reports.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(report) = self.reports.pop_front() {
                            permit.send(report);
                        }
                    }
                    // The receiver is gone: the outcomes stay in the file.
                    Err(_) => self.reports.clear(),
                },
                () = tokio::time::sleep(pause) => self.outbox.timeout(now()),
            }
        }
    }

    fn take_message(&mut self, message: Message) {
        match message {
            Message::Enqueue(submit, options, reply) => match self.outbox.enqueue(now(), &submit, options) {
                Err(error) => drop(reply.send(Err(error))),
                Ok(key) => match self.outbox.entry(&key) {
                    Some(entry) if entry.state == EntryState::Storing => {
                        self.waiting.entry(key).or_default().push(reply);
                    }
                    // It existed already.
                    _ => drop(reply.send(Ok(key))),
                },
            },
            Message::Acknowledge(key) => drop(self.outbox.acknowledge(&key)),
            Message::Withdraw(key, reply) => drop(reply.send(self.outbox.withdraw(now(), &key))),
            Message::Entries(reply) => drop(reply.send(self.outbox.entries().collect())),
        }
    }

    fn take_commands(&mut self) {
        while let Some(command) = self.outbox.next_command() {
            match command {
                Command::Store { .. } | Command::Remove { .. } => self.writes.push(command),
                Command::Send { send, http } => {
                    let transport = self.transport.clone();
                    self.calls.spawn(async move { (send, transport.send(&http).await) });
                }
                Command::Report { key, outcome } => self.reports.push_back((key, outcome)),
            }
        }
    }

    /// Writes the pending commands, off the runtime's threads. `false` if the storage is gone.
    async fn write(&mut self) -> bool {
        let commands = std::mem::take(&mut self.writes);
        let writes: Vec<FileWrite> = commands
            .iter()
            .filter_map(|command| match command {
                Command::Store { key, record, .. } => Some(FileWrite::Put(key.as_str().to_owned(), record.clone())),
                Command::Remove { key } => Some(FileWrite::Remove(key.as_str().to_owned())),
                Command::Send { .. } | Command::Report { .. } => None,
            })
            .collect();
        let Some(mut storage) = self.storage.take() else { return false };
        let done = tokio::task::spawn_blocking(move || {
            let result = storage.apply(&writes);
            (storage, result)
        });
        let Ok((storage, result)) = done.await else { return false };
        self.storage = Some(storage);
        let is_stored = result.is_ok();
        for command in commands {
            let Command::Store { key, revision, .. } = command else { continue };
            if is_stored {
                self.outbox.stored(now(), &key, revision);
                for reply in self.waiting.remove(&key).into_iter().flatten() {
                    drop(reply.send(Ok(key.clone())));
                }
            } else {
                // The write is retried, and waiting callers wait for that.
                self.outbox.store_failed(now(), &key, revision, entropy());
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, U256};

    use super::*;
    use crate::CallAsk;

    fn submit(salt: &[u8]) -> Submit {
        let ask = CallAsk {
            to: Address::ZERO,
            value: U256::ZERO,
            gas: 60_000,
            data: alloy_primitives::Bytes::new(),
            any_sender: true,
        };
        Submit::call(31_337, ask, salt)
    }

    #[tokio::test]
    async fn a_file_of_one_relayer_is_not_sent_to_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("outbox");
        // Nothing listens at any of these.
        let client = |port: u16| RelayerClient::new(&format!("http://127.0.0.1:{port}")).unwrap();
        let open = |client: &RelayerClient| DurableOutbox::open(&path, client, OutboxConfig::default());
        let (outbox, _outcomes) = open(&client(1)).unwrap();
        outbox.enqueue(submit(b"1"), Enqueue::default()).await.unwrap();
        outbox.close().await;
        let Err(DurableOutboxError::OtherRelayer { entries: 1, url }) = open(&client(2)) else {
            panic!("sent to another")
        };
        assert_eq!(url, "http://127.0.0.1:1");
        // The same address; then another address, with an identity pinned in the meantime.
        let identity = Address::repeat_byte(7);
        let (outbox, _outcomes) = open(&client(1).identities([identity])).unwrap();
        outbox.enqueue(submit(b"2"), Enqueue::default()).await.unwrap();
        outbox.close().await;
        let (outbox, _outcomes) = open(&client(2).identities([Address::ZERO, identity])).unwrap();
        assert_eq!(outbox.entries().await.unwrap().len(), 2);
        outbox.close().await;
        let other = client(2).identities([Address::repeat_byte(8)]);
        assert!(matches!(open(&other), Err(DurableOutboxError::OtherRelayer { entries: 2, .. })));
    }
}
