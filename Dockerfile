# One image for every role: docker build -t amends .
#
# The base images are arguments, so that a registry of yours, or digests, can be named instead.
ARG BUILD_IMAGE=docker.io/library/rust:1.95.0-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY . .
# Dependencies stay in the caches between builds. Names of functions are kept for backtraces; the rest of what only a
# debugger needs is not.
RUN --mount=type=cache,id=amends-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=amends-target,target=/src/target \
    cargo build --locked --release -p amends-api --bin amends \
    && install -D target/release/amends /image/usr/local/bin/amends \
    && strip --strip-debug /image/usr/local/bin/amends \
    && install -d /image/usr/share/doc/amends \
    && scripts/third-party-notices >/image/usr/share/doc/amends/THIRD-PARTY-NOTICES.txt \
    && install -d -o 65532 -g 65532 /image/var/lib/amends

# No shell, no package manager: libc, OpenSSL (for links to Kafka), certificates of the usual authorities, and the program.
FROM ${RUNTIME_IMAGE}
COPY --from=build /image /
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/amends"]
