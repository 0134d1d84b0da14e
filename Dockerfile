# The lobby: built with cargo, run by a user without rights on Debian.

ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG RUN_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked --package lobby-bin --bin lobby

FROM ${RUN_IMAGE}
# Certificates: for amqps:// and for key sets fetched over https.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin lobby
COPY --from=build /source/target/release/lobby /usr/local/bin/lobby
USER lobby
EXPOSE 8002 8003 8011
# SIGTERM drains: clients are told to come back elsewhere.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/lobby"]
