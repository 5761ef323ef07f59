//! compose.yaml → Kubernetes resources: a pure function.
//!
//! It is: the Compose specification's model, interpolation, and its translation.
//! It is not: a runner; it does no I/O beyond reading the files it is given.
//! It must never know: the API server, images, containers.
#![forbid(unsafe_code)]
