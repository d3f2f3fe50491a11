//! How a mail leaves: to an SMTP server, or into a directory for whoever runs this alone.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use lettre::address::Envelope;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox};
use lettre::transport::smtp;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use schemas::MailId;
use tokio::io::AsyncWriteExt as _;

use super::Mail;

/// How long a mail server may take over one mail.
const SMTP_WAIT: Duration = Duration::from_secs(30);

/// The most bytes of a line of mail, without its end (RFC 5322, 2.1.1).
const LINE_BYTES_MAX: usize = 998;

/// Where mail goes.
pub struct Transport {
    from: Mailbox,
    way: Way,
}

enum Way {
    Smtp(Box<AsyncSmtpTransport<Tokio1Executor>>),
    /// One `.eml` file per mail.
    Files(PathBuf),
}

/// The configuration of mail cannot work.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `[mail] from` is no address.
    #[error("[mail] from: expected an address such as ThrottleProxy <keys@example.com>")]
    From,
    /// `[mail] smtp_url` is none. It is not shown: it may hold a password.
    #[error("[mail] smtp_url: expected smtp://user:password@host:port, or smtps://…")]
    Url,
}

/// A mail that was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the mail cannot be written")]
    Write(#[source] lettre::error::Error),
    #[error("the mail server did not take the mail")]
    Smtp(#[source] smtp::Error),
    #[error("the file of the mail cannot be written")]
    File(#[source] io::Error),
}

/// Whether `[mail] from` can be this.
pub fn is_sender(text: &str) -> bool {
    text.parse::<Mailbox>().is_ok()
}

// === impl Transport ===

impl Transport {
    /// To an SMTP server: `smtp://` or `smtps://`, with user and password where it asks for
    /// them; `?tls=required` or `?tls=opportunistic` asks for STARTTLS.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn smtp(url: &str, from: &str) -> Result<Self, OpenError> {
        let smtp = AsyncSmtpTransport::<Tokio1Executor>::from_url(url)
            .map_err(|_| OpenError::Url)?
            .timeout(Some(SMTP_WAIT))
            .build();
        Ok(Self {
            from: from.parse().map_err(|_| OpenError::From)?,
            way: Way::Smtp(Box::new(smtp)),
        })
    }

    /// Into a directory, which is made for this user only when the first mail is written.
    ///
    /// # Errors
    /// [`OpenError::From`].
    pub fn files(directory: PathBuf, from: &str) -> Result<Self, OpenError> {
        Ok(Self {
            from: from.parse().map_err(|_| OpenError::From)?,
            way: Way::Files(directory),
        })
    }

    pub(super) async fn hand_over(&self, id: MailId, mail: &Mail) -> Result<(), Error> {
        let message = self.message(id, mail)?;
        match &self.way {
            Way::Smtp(smtp) => smtp.send(message).await.map(drop).map_err(Error::Smtp),
            Way::Files(directory) => {
                let path = write_file(directory.clone(), id, &message.formatted())
                    .await
                    .map_err(Error::File)?;
                tracing::info!(path = %path.display(), "a mail was written to a file");
                Ok(())
            }
        }
    }

    /// The library writes the head: nothing in an address or a subject can add a line.
    fn message(&self, id: MailId, mail: &Mail) -> Result<Message, Error> {
        let to: Address = mail.to.written().parse().map_err(|_| {
            // Addresses are judged by the same library when they come in.
            Error::Write(lettre::error::Error::MissingTo)
        })?;
        // Said apart from the head, from which the library cannot read quoted addresses.
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![to.clone()]);

        // The same for every try, so that a server that was given it twice can tell.
        let message_id = format!("<{id}@{}>", self.from.email.domain());
        let auto_submitted = HeaderValue::new(
            // RFC 3834: no machine shall answer.
            HeaderName::new_from_ascii_str("Auto-Submitted"),
            "auto-generated".to_owned(),
        );
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(mail.subject.replace(char::is_control, " "))
            .message_id(Some(message_id))
            .raw_header(auto_submitted)
            .header(ContentType::TEXT_PLAIN)
            .envelope(envelope.map_err(Error::Write)?)
            .body(body(&mail.text))
            .map_err(Error::Write)
    }
}

// === impl Error ===

impl Error {
    /// Whether trying again is of no use.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Write(_) => true,
            Self::Smtp(error) => error.is_permanent(),
            Self::File(_) => false,
        }
    }

    /// What the server answered, in numbers only.
    pub(super) fn code(&self) -> Option<String> {
        match self {
            Self::Smtp(error) => error.status().map(|it| it.to_string()),
            _ => None,
        }
    }

    pub(super) fn kind(&self) -> String {
        match self {
            Self::File(error) => error.to_string(),
            Self::Smtp(error) if error.is_timeout() => "timeout".to_owned(),
            Self::Smtp(error) if error.is_tls() => "TLS".to_owned(),
            Self::Smtp(_) => "SMTP".to_owned(),
            Self::Write(_) => "the mail cannot be written".to_owned(),
        }
    }
}

/// The text as it stands where that is allowed (RFC 5322, 2.1.1 and RFC 2045, 2.7). The
/// library would encode every line of more than 76 characters, and break links for whoever
/// reads the file.
fn body(text: &str) -> Body {
    let is_plain = text.is_ascii()
        && !text.contains(['\0', '\r'])
        && text.lines().all(|line| line.len() <= LINE_BYTES_MAX);
    if !is_plain {
        return Body::new(text.to_owned());
    }
    let bytes = text.replace('\n', "\r\n").into_bytes();
    Body::dangerous_pre_encoded(bytes, ContentTransferEncoding::SevenBit)
}

/// Whoever looks into the directory sees whole mails only.
async fn write_file(directory: PathBuf, id: MailId, content: &[u8]) -> io::Result<PathBuf> {
    tokio::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .await?;
    let path = directory.join(format!("{id}.eml"));
    let unfinished = directory.join(format!(".{id}.unfinished"));
    let mut file = tokio::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)
        .await?;
    file.write_all(content).await?;
    file.sync_all().await?;
    tokio::fs::rename(&unfinished, &path).await?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account;
    use crate::fresh;

    fn formatted(to: &str, subject: &str, text: &str) -> String {
        let transport = Transport::files("unused".into(), "Keys <keys@example.com>").unwrap();
        let mail = Mail {
            to: account::Address::parse(to).unwrap(),
            subject: subject.to_owned(),
            text: text.to_owned(),
        };
        let id = fresh::id(MailId::from_parts);
        let message = transport.message(id, &mail).unwrap().formatted();
        String::from_utf8(message).unwrap()
    }

    #[test]
    fn links_stand_as_they_are() {
        let link = format!("https://keys.example.com/verify#token={}", "a".repeat(43));
        let mail = formatted("jane@example.com", "Hello", &format!("Use\n\n{link}\n"));
        assert!(mail.contains(&format!("\r\n{link}\r\n")), "{mail}");
        assert!(
            mail.contains("Auto-Submitted: auto-generated\r\n"),
            "{mail}"
        );
        assert!(mail.contains("To: jane@example.com\r\n"), "{mail}");
    }

    #[test]
    fn nothing_adds_a_line_to_the_head() {
        let mail = formatted("jane@example.com", "a\r\nBcc: joe@example.com", "text");
        let (head, _) = mail.split_once("\r\n\r\n").unwrap();
        let is_own = |line: &str| line.to_lowercase().starts_with("bcc");
        assert!(!head.lines().any(is_own), "{head}");
    }

    #[test]
    fn what_is_not_plain_is_encoded() {
        for text in ["Gr\u{fc}\u{df}e", &"x".repeat(999)] {
            let mail = formatted("jane@example.com", "Hello", text);
            assert!(!mail.contains("Content-Transfer-Encoding: 7bit"), "{mail}");
        }
    }

    #[test]
    fn odd_addresses_can_be_written_to() {
        for to in [
            "\"john doe\"@example.com",
            "\"a@b\"@example.com",
            "jane+tag@xn--bcher-kva.example",
            "o'hara@example.com",
        ] {
            let mail = formatted(to, "Hello", "text");
            assert!(mail.contains(&format!("To: {to}\r\n")), "{mail}");
        }
    }
}
