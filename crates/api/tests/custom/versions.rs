//! Versions that come and go, and what converts between them.

use crate::*;

#[tokio::test]
async fn versions_convert_and_come_and_go() {
    let f = start();
    let mut crd = widgets();
    let mut old = crd["spec"]["versions"][0].clone();
    old["name"] = "v1beta1".into();
    old["storage"] = false.into();
    old["deprecated"] = true.into();
    old["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["color"]["default"] =
        "green".into();
    crd["spec"]["versions"].as_array_mut().unwrap().push(old);
    f.made(CRDS, crd.clone()).await;
    f.made(WIDGETS, widget("a", json!({"size": 1}))).await;
    let beta = "/apis/example.com/v1beta1/namespaces/default/widgets";
    let a = f.get(&format!("{beta}/a")).await;
    assert_eq!(a.json()["apiVersion"], "example.com/v1beta1");
    let warning = a.headers.get("warning").unwrap().to_str().unwrap();
    assert!(
        warning.contains("example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget"),
        "{warning}"
    );
    let mut b = widget("b", json!({"size": 1}));
    b["apiVersion"] = "example.com/v1beta1".into();
    let b = f.made(beta, b).await;
    assert_eq!(
        (b["spec"]["color"].as_str(), b["apiVersion"].as_str()),
        (Some("green"), Some("example.com/v1beta1"))
    );
    assert_eq!(
        f.get(&format!("{WIDGETS}/b")).await.json()["apiVersion"],
        "example.com/v1"
    );

    let mut watch = f.watch(&format!("{beta}?watch=true")).await;
    assert_eq!(
        watch.next().await.unwrap()["object"]["apiVersion"],
        "example.com/v1beta1"
    );
    let off =
        json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}]).to_string();
    let a = f
        .patch(&format!("{CRDS}/widgets.example.com"), "json-patch", &off)
        .await;
    assert_eq!(a.code, 200, "{}", message(&a));
    assert_eq!(f.get(&format!("{beta}/a")).await.code, 404);
    while watch.next().await.is_some() {}
    let gone = json!([{"op": "remove", "path": "/spec/versions/0"}]).to_string();
    let a = f
        .patch(&format!("{CRDS}/widgets.example.com"), "json-patch", &gone)
        .await;
    assert!(
        message(&a).contains("was previously a storage version"),
        "{}",
        message(&a)
    );
}

/// A conversion webhook on loopback: `spec.size` in v1 is `spec.width` in v2. Returns its URL and CA.
async fn converter() -> (String, String) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use http_body_util::{BodyExt, Full};
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let ca = STANDARD.encode(cert.pem());
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let tls = rustls::ServerConfig::builder_with_provider(std::sync::Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![cert.der().clone()], key)
    .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/convert", listener.local_addr().unwrap());
    let answer = |request: http::Request<hyper::body::Incoming>| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let review: Value = serde_json::from_slice(&body).unwrap();
        let wanted = &review["request"]["desiredAPIVersion"];
        let mut objects = review["request"]["objects"].clone();
        for o in objects.as_array_mut().unwrap() {
            let (from, to) = if wanted == "example.com/v2" {
                ("size", "width")
            } else {
                ("width", "size")
            };
            let spec = o["spec"].as_object_mut().unwrap();
            if let Some(v) = spec.remove(from) {
                spec.insert(to.into(), v);
            }
            o["apiVersion"] = wanted.clone();
        }
        let answer = json!({"kind": "ConversionReview", "apiVersion": review["apiVersion"], "response": {
            "uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": objects}});
        Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(bytes::Bytes::from(
            answer.to_string(),
        ))))
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let service = hyper::service::service_fn(answer);
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(io, service)
                        .await;
                }
            });
        }
    });
    (url, ca)
}

#[tokio::test]
async fn webhooks_convert() {
    let f = start();
    let (url, ca) = converter().await;
    let mut crd = widgets();
    let mut new = crd["spec"]["versions"][0].clone();
    new["name"] = "v2".into();
    new["storage"] = false.into();
    let text = new
        .to_string()
        .replace("\"size\"", "\"width\"")
        .replace(".spec.size", ".spec.width");
    crd["spec"]["versions"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::from_str(&text).unwrap());
    crd["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": url, "caBundle": ca}}});
    f.made(CRDS, crd).await;
    let v2 = "/apis/example.com/v2/namespaces/default/widgets";
    f.made(WIDGETS, widget("a", json!({"size": 1}))).await;
    let a = f.get(&format!("{v2}/a")).await;
    assert_eq!(
        (a.code, &a.json()["spec"]["width"]),
        (200, &json!(1)),
        "{}",
        message(&a)
    );
    let mut b = widget("b", json!({"width": 2}));
    b["apiVersion"] = "example.com/v2".into();
    let b = f.made(v2, b).await;
    assert_eq!(
        (&b["spec"]["width"], &b["apiVersion"]),
        (&json!(2), &json!("example.com/v2"))
    );
    assert_eq!(
        f.get(&format!("{WIDGETS}/b")).await.json()["spec"]["size"],
        2
    );
    let list = f.get(v2).await.json();
    let widths: Vec<&Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| &o["spec"]["width"])
        .collect();
    assert_eq!(widths, [&json!(1), &json!(2)]);
    let mut watch = f.watch(&format!("{v2}?watch=true")).await;
    for want in [1, 2] {
        assert_eq!(watch.next().await.unwrap()["object"]["spec"]["width"], want);
    }
    let a = f
        .patch(&format!("{v2}/a"), "merge-patch", r#"{"spec":{"width":3}}"#)
        .await;
    assert_eq!(
        (a.code, &a.json()["spec"]["width"]),
        (200, &json!(3)),
        "{}",
        message(&a)
    );
    assert_eq!(watch.next().await.unwrap()["object"]["spec"]["width"], 3);
    assert_eq!(
        f.get(&format!("{WIDGETS}/a")).await.json()["spec"]["size"],
        3
    );
    let a = f.delete(&format!("{v2}/a"), json!({})).await;
    assert_eq!(a.code, 200, "{}", message(&a));
    assert_eq!(watch.next().await.unwrap()["type"], "DELETED");

    let off = json!([{"op": "replace", "path": "/spec/conversion/webhook/clientConfig/url", "value": "https://127.0.0.1:1/"}]);
    let a = f
        .patch(
            &format!("{CRDS}/widgets.example.com"),
            "json-patch",
            &off.to_string(),
        )
        .await;
    assert_eq!(a.code, 200, "{}", message(&a));
    let a = f.get(&format!("{v2}/b")).await;
    assert_eq!(a.code, 500);
    assert!(
        message(&a).contains("conversion webhook for example.com/v1, Kind=Widget failed"),
        "{}",
        message(&a)
    );
    assert_eq!(
        f.get(&format!("{WIDGETS}/b")).await.code,
        200,
        "the stored version needs no webhook"
    );
}
