//! The system from outside: black-box tests over real sockets, real clients and benches. This library
//! is empty on purpose; everything lives in `it/`, `clients/` and `bench/`.
