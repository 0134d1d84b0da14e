# The lobby: one static program and the certificate authorities, run by a user without rights. There is no shell in it.

ARG RUST_IMAGE=rust:1.95-slim-bookworm

FROM ${RUST_IMAGE} AS build
RUN apt-get update && apt-get install --yes --no-install-recommends musl-tools \
    && rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /source
COPY . .
RUN cargo build --release --locked --package lobby-bin --bin lobby --target "$(uname -m)-unknown-linux-musl" \
    && strip -o /lobby "target/$(uname -m)-unknown-linux-musl/release/lobby"

FROM scratch
# For amqps:// and for key sets fetched over https.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /lobby /lobby
USER 10001:10001
EXPOSE 8002 8003 8011
# Whether it lives. A broker that is away is no reason to start it again; /ready is for who leads players to it.
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s CMD ["/lobby", "health", "--live"]
# SIGTERM drains: clients are told to come back elsewhere, one after the other.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/lobby"]
