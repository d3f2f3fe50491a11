//! A real name server on the loopback that changes its mind: the first question for a name
//! gets its first answer, the next one the next, and the last answer stays.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

/// A name server.
#[derive(Debug)]
pub struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    server: AbortHandle,
}

#[derive(Debug, Default)]
struct Zone {
    names: HashMap<String, Name>,
}

#[derive(Debug, Default)]
struct Name {
    ttl: u32,
    answers: Vec<Vec<IpAddr>>,
    /// Questions so far, for IPv4 and for IPv6 addresses.
    asked: HashMap<RecordType, usize>,
}

impl Dns {
    /// Starts one that knows no name.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("a bound address");
        let zone = Arc::<Mutex<Zone>>::default();
        let server = {
            let zone = zone.clone();
            tokio::spawn(async move {
                let mut bytes = [0; 4_096];
                loop {
                    let (length, peer) = socket.recv_from(&mut bytes).await.expect("a question");
                    let Ok(question) = Message::from_vec(&bytes[..length]) else {
                        continue;
                    };
                    let answer = zone.lock().expect("no holder panics").answer(&question);
                    let answer = answer.to_vec().expect("an answer can be written");
                    // Who asked may have gone.
                    let _ = socket.send_to(&answer, peer).await;
                }
            })
        };
        Self {
            address,
            zone,
            server: server.abort_handle(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it answers for a name, question by question, and how long an answer counts.
    pub fn say(&self, name: &str, ttl: u32, answers: &[&[&str]]) {
        let address = |text: &&str| text.parse().expect("an address");
        let answers = answers
            .iter()
            .map(|answer| answer.iter().map(address).collect())
            .collect();
        let name_of = Name {
            ttl,
            answers,
            asked: HashMap::new(),
        };
        let mut zone = self.zone.lock().expect("no holder panics");
        zone.names.insert(name.to_owned(), name_of);
    }

    /// How often it was asked for the IPv4 addresses of a name.
    pub fn asked(&self, name: &str) -> usize {
        let zone = self.zone.lock().expect("no holder panics");
        let asked = zone.names.get(name).map(|it| &it.asked);
        asked
            .and_then(|it| it.get(&RecordType::A))
            .copied()
            .unwrap_or_default()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Zone {
    fn answer(&mut self, question: &Message) -> Message {
        let mut answer = Message::new(question.id, MessageType::Response, OpCode::Query);
        answer.add_queries(question.queries.iter().cloned());
        let Some(query) = question.queries.first() else {
            return answer;
        };
        let asked = query.name().to_ascii().to_ascii_lowercase();
        let Some(name) = self.names.get_mut(asked.trim_end_matches('.')) else {
            answer.metadata.response_code = ResponseCode::NXDomain;
            return answer;
        };
        let count = name.asked.entry(query.query_type()).or_default();
        let addresses = &name.answers[(*count).min(name.answers.len() - 1)];
        *count += 1;
        for address in addresses {
            let data = match (address, query.query_type()) {
                (IpAddr::V4(it), RecordType::A) => RData::A((*it).into()),
                (IpAddr::V6(it), RecordType::AAAA) => RData::AAAA((*it).into()),
                _ => continue,
            };
            answer.add_answer(Record::from_rdata(query.name().clone(), name.ttl, data));
        }
        answer
    }
}
