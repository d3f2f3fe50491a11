use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

use super::*;

const ANY: Allowance = Allowance {
    private: true,
    exempt: None,
};
const SOON: Duration = Duration::from_secs(5);

fn pool(tls: rustls::ClientConfig) -> Upstreams {
    let (resolver, service) = crate::resolve::new(None);
    tokio::task::spawn_local(service.run());
    let reach = Arc::new(Reach::new(resolver, []));
    Upstreams::new(&tls, reach, &Bounds::default(), Arc::default())
}

fn trusting(roots: rustls::RootCertStore) -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn origin(scheme: Scheme, host: &str, port: u16, allowance: Allowance) -> Origin {
    Origin {
        scheme,
        host: host.into(),
        port,
        allowance,
    }
}

/// A TLS server for `name` on loopback, and what trusts it.
async fn tls_server(name: &str) -> (u16, rustls::RootCertStore) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![certificate.clone()], key)
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut kept = Vec::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            kept.push(acceptor.accept(stream).await);
        }
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    (port, roots)
}

#[tokio::test]
async fn tls_is_verified_against_the_name_of_the_target() {
    LocalSet::new()
        .run_until(async {
            let (port, roots) = tls_server("localhost").await;
            let good = origin(Scheme::Https, "localhost", port, ANY);
            let pool_of = |roots| pool(trusting(roots));
            let lease = pool_of(roots.clone())
                .connect(&good, None, Versions::Any, SOON)
                .await;
            assert!(lease.is_ok(), "{lease:?}");

            let stranger = pool_of(rustls::RootCertStore::empty());
            let refused = stranger.connect(&good, None, Versions::Any, SOON).await;
            assert!(matches!(refused, Err(ConnectError::Tls(_))), "{refused:?}");

            // The same server under another name: its address is not enough.
            let other = origin(Scheme::Https, "127.0.0.1", port, ANY);
            let refused = pool_of(roots)
                .connect(&other, "127.0.0.1".parse().ok(), Versions::Any, SOON)
                .await;
            assert!(matches!(refused, Err(ConnectError::Tls(_))), "{refused:?}");
        })
        .await;
}

#[tokio::test]
async fn what_a_name_resolves_to_is_judged_before_anything_is_connected_to() {
    LocalSet::new()
        .run_until(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let pool = pool(trusting(rustls::RootCertStore::empty()));
            let connect = async |host: &str, allowance| {
                let origin = origin(Scheme::Http, host, address.port(), allowance);
                pool.connect(&origin, None, Versions::Any, SOON).await
            };
            let refused = connect("localhost", Allowance::default()).await;
            assert!(matches!(refused, Err(ConnectError::Unsafe)), "{refused:?}");
            let waiting = tokio::time::timeout(Duration::from_millis(50), listener.accept());
            assert!(waiting.await.is_err(), "somebody connected");
            assert!(connect("localhost", ANY).await.is_ok());
        })
        .await;
}

#[tokio::test]
async fn a_connection_is_never_lent_to_who_might_not_have_made_it() {
    LocalSet::new()
        .run_until(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let pool = pool(trusting(rustls::RootCertStore::empty()));
            let mine = origin(Scheme::Http, "127.0.0.1", port, ANY);
            let lease = pool
                .connect(&mine, "127.0.0.1".parse().ok(), Versions::Any, SOON)
                .await
                .unwrap();
            let _accepted = listener.accept().await.unwrap();
            pool.give_back(lease, Instant::now());
            let theirs = origin(Scheme::Http, "127.0.0.1", port, Allowance::default());
            assert!(pool.reuse(&theirs, Versions::Any).is_none());
            assert!(
                pool.reuse(&mine, Versions::Any)
                    .is_some_and(|lease| lease.is_reused)
            );
            assert!(
                pool.reuse(&mine, Versions::Any).is_none(),
                "it is out on loan"
            );
        })
        .await;
}
