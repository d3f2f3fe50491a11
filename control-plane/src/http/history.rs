//! `/events`: what happened in the workspace, as rows, as CloudEvents, or live.
//!
//! Every active member reads what they did themselves; `audit.read` is for the rest. A row
//! is the event and its two hashes: without these, canonicalised, it hashes to its leaf hash.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use futures_util::stream;
use schemas::api::Page;
use schemas::problem::Code;
use schemas::{AccountId, Position, Timestamp, WorkspaceId};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::answer;
use super::call::Call;
use super::failure::Failure;
use super::keys::event_row;
use super::permission::Permission;
use crate::store::log::{self, Row};
use crate::view;
use crate::view::event::Filter;

const TIME: &str = "an RFC 3339 time with a zone";

/// Rows that a live reader is sent at a time.
const CHUNK: u32 = 100;

/// The floor under being woken, and how often a live reader is judged anew.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a reader wants events as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Rows,
    CloudEvents,
    Live,
}

pub(super) async fn list(call: Call) -> Result<Response, Failure> {
    let mut call = call;
    let form = form_of(call.header("accept"))?;
    let filter = read_filter(&mut call, form).await?;
    match form {
        Form::Live => Ok(live(call, filter)),
        Form::Rows | Form::CloudEvents => page(&call, form, filter).await,
    }
}

async fn page(call: &Call, form: Form, filter: Filter) -> Result<Response, Failure> {
    let limit = filter.limit;
    let wanted = Filter {
        limit: limit + 1,
        ..filter
    };
    let mut rows = view::event::search(call.app.store(), &wanted).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let last = rows.last().filter(|_| more);
    let next_cursor = last.map(|row| row.recorded.position.to_string());
    if form == Form::Rows {
        let data: Vec<Value> = rows.iter().map(event_row).collect::<Result<_, _>>()?;
        return answer::ok(&Page { data, next_cursor });
    }
    let source = format!("{}/v1/events", call.app.public_url());
    let batch: Vec<Value> = rows
        .iter()
        .map(|row| cloud_event(row, &source))
        .collect::<Result<_, _>>()?;
    let bytes = serde_json::to_vec(&batch).map_err(|_| log::corrupt("an answer"))?;
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(
        "content-type",
        HeaderValue::from_static("application/cloudevents-batch+json"),
    );
    // A batch has no place for it.
    if let Some(next) = next_cursor
        && let Ok(value) = HeaderValue::try_from(format!("</v1/events?after={next}>; rel=\"next\""))
    {
        headers.insert("link", value);
    }
    Ok(response)
}

/// An event as CNCF CloudEvents 1.0 has it. Its `data` is the row, so that nothing of what
/// can be checked is lost.
fn cloud_event(row: &Row, source: &str) -> Result<Value, Failure> {
    let event = &row.recorded;
    let data = event_row(row)?;
    Ok(json!({
        "specversion": "1.0",
        "id": event.id,
        "source": source,
        "type": data["type"],
        "subject": event.stream.to_string(),
        "time": event.at,
        "datacontenttype": "application/json",
        // An integer of CloudEvents has 32 bits.
        "sequence": event.position.to_string(),
        "data": data,
    }))
}

// === live ===

/// A reader who follows.
struct Following {
    call: Call,
    filter: Filter,
    judged_at: Instant,
    waiting: std::vec::IntoIter<Row>,
}

fn live(call: Call, filter: Filter) -> Response {
    let following = Following {
        call,
        filter: Filter {
            limit: CHUNK,
            ..filter
        },
        judged_at: Instant::now(),
        waiting: Vec::new().into_iter(),
    };
    Sse::new(rows(following))
        .keep_alive(KeepAlive::default())
        .into_response()
}

fn rows(following: Following) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(following, |mut following| async {
        let event = following.next().await?;
        Some((Ok(event), following))
    })
}

impl Following {
    /// The next event; `None` ends the stream: the reader may not read on, or the store is
    /// away, and the reader comes again with `Last-Event-ID`.
    async fn next(&mut self) -> Option<Event> {
        let mut head = self.call.app.head();
        loop {
            if let Some(row) = self.waiting.next() {
                let data = event_row(&row).ok()?.to_string();
                let id = row.recorded.position.to_string();
                return Some(Event::default().id(id).data(data));
            }
            if self.judged_at.elapsed() >= LOOK_EVERY {
                let caller = self.call.authenticate_again().await.ok()?;
                let own_only = caller.permit(Permission::AuditRead).is_err();
                if own_only && self.filter.actor_id != Some(caller.actor().id) {
                    return None;
                }
                self.judged_at = Instant::now();
            }
            head.borrow_and_update();
            let rows = view::event::search(self.call.app.store(), &self.filter)
                .await
                .ok()?;
            match rows.last() {
                Some(last) => self.filter.after = last.recorded.position,
                // Whether woken or not, it is looked again.
                None => drop(timeout(LOOK_EVERY, head.changed()).await),
            }
            self.waiting = rows.into_iter();
        }
    }
}

// === reading the request ===

fn form_of(accept: &str) -> Result<Form, Failure> {
    let mut known =
        accept
            .split(',')
            .filter_map(|it| match it.split(';').next().unwrap_or_default().trim() {
                "" | "*/*" | "application/*" | "application/json" => Some(Form::Rows),
                "application/cloudevents-batch+json" => Some(Form::CloudEvents),
                "text/event-stream" => Some(Form::Live),
                _ => None,
            });
    known.next().ok_or_else(|| {
        Failure::new(
            Code::NotAcceptable,
            "accept: application/json, application/cloudevents-batch+json or text/event-stream",
        )
    })
}

async fn read_filter(call: &mut Call, form: Form) -> Result<Filter, Failure> {
    let workspace_id = read_workspace(call)?;
    let limit = call.params.limit();
    let cursor: Option<Position> = call.params.cursor()?;
    let after: Option<Position> = call.params.parsed("after", "a position");
    let resumed = match form {
        Form::Live => call.header("last-event-id").parse().ok(),
        Form::Rows | Form::CloudEvents => None,
    };
    let kind = call.params.text("type");
    let actor_id = call.params.text("actor");
    let object_id = call.params.text("object");
    let from: Option<Timestamp> = call.params.parsed("from", TIME);
    let to: Option<Timestamp> = call.params.parsed("to", TIME);
    call.finish_params()?;
    let own = call.caller.actor().id;
    let reads_all = call.permit(Permission::AuditRead);
    let actor_id = match (actor_id, reads_all) {
        (actor_id, Ok(())) => actor_id,
        (None, Err(_)) => Some(own),
        (Some(asked), Err(_)) if asked == own => Some(own),
        (Some(asked), Err(failure)) => {
            find(call, workspace_id, &asked).await?;
            return Err(failure);
        }
    };
    for id in actor_id.iter().chain(&object_id) {
        find(call, workspace_id, id).await?;
    }
    Ok(Filter {
        workspace_id,
        after: resumed.or(after).or(cursor).unwrap_or(0),
        kind,
        actor_id,
        object_id,
        from,
        to,
        limit,
    })
}

/// Whose events; operators may name any workspace, or `instance` for what belongs to none.
fn read_workspace(call: &mut Call) -> Result<Option<WorkspaceId>, Failure> {
    let own = call.caller.workspace_id;
    let Some(asked) = call.params.text("workspace") else {
        return Ok(Some(own));
    };
    if asked == own.to_string() {
        return Ok(Some(own));
    }
    if !call.caller.is_operator {
        return Err(Failure::new(
            Code::Forbidden,
            "only operators read the events of other workspaces",
        ));
    }
    match asked.as_str() {
        "instance" => Ok(None),
        id => match id.parse() {
            Ok(id) => Ok(Some(id)),
            Err(_) => Err(Failure::not_found("workspace")),
        },
    }
}

/// Whether an id is one of the workspace; another's is not found, as an unknown one.
async fn find(call: &Call, workspace_id: Option<WorkspaceId>, id: &str) -> Result<(), Failure> {
    let store = call.app.store();
    if id == call.caller.actor().id || view::event::is_known(store, workspace_id, id).await? {
        return Ok(());
    }
    if let (Some(workspace_id), Ok(account_id)) = (workspace_id, id.parse::<AccountId>())
        && view::workspace::membership(store, workspace_id, account_id)
            .await?
            .is_some()
    {
        return Ok(());
    }
    Err(Failure::not_found("actor or object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_is_known_is_taken() {
        for (accept, expected) in [
            ("", Some(Form::Rows)),
            ("*/*", Some(Form::Rows)),
            ("text/html, application/json;q=0.9", Some(Form::Rows)),
            (
                "application/cloudevents-batch+json",
                Some(Form::CloudEvents),
            ),
            ("text/event-stream; charset=utf-8", Some(Form::Live)),
            ("text/html", None),
        ] {
            assert_eq!(form_of(accept).ok(), expected, "{accept}");
        }
    }
}
