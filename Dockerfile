# The bridge as one static binary on an empty base. BASE may be any image: nothing is asked of it.
ARG BUILDER=rust:1.95-slim-bookworm
ARG BASE=scratch

FROM ${BUILDER} AS build
# on: profile-guided optimisation, in three times the time. off: without.
ARG PGO=on
# The llvm-profdata of a BUILDER without rustup.
ARG LLVM_PROFDATA
WORKDIR /src
COPY . .
# With a target named, +crt-static holds for the bridge alone and not for the build scripts and macros.
# Cargo goes by file times: touch, lest the cache of another checkout pass for this one.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    find build.rs proto src release -exec touch {} + \
    && if [ "$PGO" = off ]; then \
    host="$(rustc --print host-tuple)" \
    && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$host" \
    && cp "target/$host/release/alim-bridge" /alim-bridge; \
    else \
    { [ -n "$LLVM_PROFDATA" ] || rustup component add llvm-tools; } \
    && cp "$(release/pgo --static)" /alim-bridge; \
    fi

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="alim-bridge" \
      org.opencontainers.image.description="Typed gRPC in front of ALİM's REST and Server-Sent Events" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# The HTTP client can't be made without roots, not even for an upstream on http://.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /alim-bridge /usr/local/bin/alim-bridge
# Loopback, the default, can't be reached from outside of the container.
ENV ALIM_BRIDGE_LISTEN=0.0.0.0:50051 \
    ALIM_BRIDGE_ADMIN_LISTEN=0.0.0.0:9464
EXPOSE 50051 9464
USER 65532:65532
# Over HTTP, and so whether callers need TLS and certificates or not. Where ADMIN_LISTEN is changed, give a check of your own:
# `alim-bridge health` asks over gRPC, with --ca-file or --insecure, and --cert-file and --key-file.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["/usr/local/bin/alim-bridge", "health", "--http", "http://127.0.0.1:9464/readyz"]
ENTRYPOINT ["/usr/local/bin/alim-bridge"]
CMD ["serve"]
