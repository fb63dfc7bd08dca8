# The two images, each with nothing in it but what it runs:
#
#   docker build -t malla .                               # `malla` (control server, webhook, tools) and `malla-proxy`
#   docker build -t malla-proxy --target proxy .          # the sidecar, and `nft` for `malla-proxy init`
#   docker run --rm -v "$PWD/mesh:/mesh" malla check /mesh
#
# The sidecar's image has 19.9 MB (9 MB compressed): 14 are the program, 6 `nft` and libraries. That of `malla` has 49 MB (21 MB).
#
# Both run as user 1337, which `malla-proxy init` exempts from redirection; `init` itself needs `--user 0` and
# `--cap-add NET_ADMIN`. Dependencies are those of Cargo.lock, or the build fails.

FROM rust:1.95-trixie AS build
WORKDIR /source
COPY . .
# Each makes the images smaller: the unwinder linked in, instead of a library of which it is a part; relative relocations in their packed
# form; functions of the same instructions once.
RUN mkdir /static && ln -s "$(gcc -print-file-name=libgcc_eh.a)" /static/libgcc_s.a
ENV RUSTFLAGS="-L native=/static -C link-arg=-Wl,-z,pack-relative-relocs -C link-arg=-Wl,--icf=all"
# One after the other: together, the sidecar would be built with what the control server wants of their common dependencies.
RUN cargo build --release --locked --package malla-proxy \
 && cargo build --release --locked --package malla \
 && strip target/release/malla target/release/malla-proxy

# Programs with the libraries that they load, and no system around them.
FROM debian:trixie-slim AS files
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends nftables \
 && rm -rf /var/lib/apt/lists/*
COPY deploy/image/collect /usr/local/bin/collect
COPY --from=build /source/target/release/malla /source/target/release/malla-proxy /usr/local/bin/
RUN collect /images/proxy /usr/local/bin/malla-proxy /usr/sbin/nft \
 && collect /images/malla /usr/local/bin/malla /usr/local/bin/malla-proxy /usr/sbin/nft

FROM scratch AS proxy
LABEL org.opencontainers.image.title="malla-proxy" \
      org.opencontainers.image.description="The sidecar of Malla, a service mesh" \
      org.opencontainers.image.source="https://github.com/malla-mesh/malla" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=files /images/proxy /
ENV PATH=/usr/local/bin:/usr/sbin
USER 1337:1337
EXPOSE 15001 15006 15020 15021
ENTRYPOINT ["malla-proxy"]

FROM scratch AS malla
LABEL org.opencontainers.image.title="malla" \
      org.opencontainers.image.description="The control server of Malla, a service mesh, and its tools" \
      org.opencontainers.image.source="https://github.com/malla-mesh/malla" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=files /images/malla /
ENV PATH=/usr/local/bin:/usr/sbin \
    MALLA_STATE=/var/lib/malla
USER 1337:1337
WORKDIR /var/lib/malla
EXPOSE 15012 15014 15017
ENTRYPOINT ["malla"]
