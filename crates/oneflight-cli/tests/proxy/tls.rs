//! Backends over TLS: whom they have to be certified by, and what is said where they are not. For a build with the feature `tls`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::backend::{Backend, read, text};
use crate::client::{Answer, get, keyed, post};
use crate::proxy::{Home, Proxy};

fn openssl(folder: &Path, arguments: &[&str]) {
    let ran = Command::new("openssl").args(arguments).current_dir(folder).output();
    let ran = ran.unwrap_or_else(|error| panic!("no `openssl` ({error}); install Debian's package `openssl`"));
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

const KEY: [&str; 6] = [
    "req",
    "-x509",
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
];

/// Makes an authority: `NAME.crt`.
fn authority(folder: &Path, name: &str) {
    let (key, certificate, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
    let rest = [
        "-nodes",
        "-days",
        "2",
        "-keyout",
        &key,
        "-out",
        &certificate,
        "-subj",
        &subject,
    ];
    openssl(folder, &[&KEY[..], &rest].concat());
}

/// Makes a certificate for a name, of this authority.
fn certificate(folder: &Path, name: &str, of: &str) {
    let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
    let (authority, signs, named) = (
        format!("{of}.crt"),
        format!("{of}.key"),
        format!("subjectAltName=DNS:{name}"),
    );
    let rest = [
        "-nodes",
        "-days",
        "2",
        "-keyout",
        &key,
        "-out",
        &certificate,
        "-subj",
        "/CN=backend",
    ];
    let signed = [
        "-CA",
        &authority,
        "-CAkey",
        &signs,
        "-addext",
        &named,
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    openssl(folder, &[&KEY[..], &rest, &signed].concat());
}

/// Echoes bodies, with the certificate for this name.
async fn backend(folder: &Path, name: &str) -> SocketAddr {
    let certificate = CertificateDer::from_pem_file(folder.join(format!("{name}.crt"))).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate with its key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a port");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust it goes away.
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(|request| async move {
                    Ok::<_, std::convert::Infallible>(text(format!("secure: {}", read(request).await)))
                });
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let _ = served.await;
            });
        }
    });
    address
}

fn before(home: &Home, port: u16, roots: &str) -> Proxy {
    home.write_text(&format!(
        "listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\nstore.url = {:?}\n[upstream]\nurl = \"https://localhost:{port}\"\n{roots}",
        home.store()
    ));
    home.start()
}

fn is_not_done(answer: &Answer, why: &str) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(
        answer.text().contains("NOT_DONE") || answer.text().contains("not-done"),
        "{answer:?}"
    );
    assert!(
        answer.text().contains(why) && !answer.text().contains("localhost"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_backend_is_spoken_to_whose_certificate_is_of_its_name_and_of_an_authority_in_the_file() {
    let home = Home::new();
    authority(home.path(), "ca");
    certificate(home.path(), "localhost", "ca");
    let address = backend(home.path(), "localhost").await;
    let roots = format!("roots = {:?}", home.path().join("ca.crt").display().to_string());
    let proxy = before(&home, address.port(), &roots);
    assert_eq!(keyed(proxy.address, "k", "tea").await.text(), "secure: tea");
    assert_eq!(
        keyed(proxy.address, "k", "tea").await.header("idempotency-replayed"),
        "true"
    );
    assert_eq!(post(proxy.address, "/", &[], "a body").await.text(), "secure: a body");
    assert_eq!(get(proxy.admin, "/readyz").await.status, 200);
}

#[tokio::test]
async fn a_backend_with_a_certificate_of_another_name_gets_nothing_and_it_is_said_why() {
    let home = Home::new();
    authority(home.path(), "ca");
    certificate(home.path(), "other.example", "ca");
    let address = backend(home.path(), "other.example").await;
    let roots = format!("roots = {:?}", home.path().join("ca.crt").display().to_string());
    let proxy = before(&home, address.port(), &roots);
    let answer = post(proxy.address, "/", &[], "tea").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(
        answer.text().contains("its certificate is for another name"),
        "{answer:?}"
    );
    is_not_done(
        &keyed(proxy.address, "k", "tea").await,
        "its certificate is for another name",
    );
    // Those that run it are told more.
    assert!(proxy.wait_for_line("no secure connection").contains("other.example"));
    assert_eq!(get(proxy.admin, "/readyz").await.status, 503);
    let errors = "oneflight_proxy_upstream_errors_total{kind=\"tls\"}";
    assert_eq!(proxy.metric(errors).await, 2.0);
}

#[tokio::test]
async fn a_backend_that_nobody_trusted_has_signed_gets_nothing() {
    let home = Home::new();
    for name in ["ca", "another"] {
        authority(home.path(), name);
    }
    certificate(home.path(), "localhost", "ca");
    let address = backend(home.path(), "localhost").await;
    let roots = format!("roots = {:?}", home.path().join("another.crt").display().to_string());
    for roots in ["", &roots] {
        let proxy = before(&home, address.port(), roots);
        is_not_done(
            &keyed(proxy.address, "k", "tea").await,
            "an authority that is not trusted here",
        );
    }
}

#[tokio::test]
async fn a_backend_without_tls_gets_nothing_where_tls_is_wanted() {
    let home = Home::new();
    let backend = Backend::by(|_| async { text("plain") }).await;
    let proxy = before(&home, backend.address.port(), "");
    is_not_done(
        &keyed(proxy.address, "k", "tea").await,
        "it does not speak TLS as it should",
    );
    assert_eq!(backend.count(), 0);
}
