# Both programs in one image: `malla` (control server, tools) and `malla-proxy` (sidecar).
#
#   docker build -t malla .
#   docker run --rm malla check /mesh            # the default entry point is `malla`
#   docker run --rm --entrypoint malla-proxy malla --help
#
# It runs as user 1337, which `malla-proxy init` exempts from redirection; `init` itself needs `--user 0` and
# `--cap-add NET_ADMIN`.

FROM rust:1.92-trixie AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked --package malla --package malla-proxy

FROM debian:trixie-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates nftables iptables \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 1337 malla \
 && useradd --uid 1337 --gid 1337 --no-create-home --shell /usr/sbin/nologin malla \
 && install -d -o malla -g malla -m 0700 /var/lib/malla
COPY --from=build /source/target/release/malla /source/target/release/malla-proxy /usr/local/bin/
USER 1337:1337
ENV MALLA_STATE=/var/lib/malla
WORKDIR /var/lib/malla
EXPOSE 15001 15006 15012 15014 15020 15021
ENTRYPOINT ["malla"]
