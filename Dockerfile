# Dockerfile -- one image for every role, and for a whole job in one container.
#
#   docker build -t saffron:0.1.0 .
#   docker run --rm --read-only saffron:0.1.0 local                  # trains the job configs/synthetic
#   docker run --rm saffron:0.1.0 trainer --help                     # trainer datacompose middleware embserver
#   docker build --target debug --output symbols .                   # debug symbols of the programs
#
# Layout: /opt/saffron/{launch.sh,bin,configs} belong to root and are never written; a job's four files are looked
# for where SAFFRON_*_CONFIG say (in Kubernetes /etc/saffron/job), data in /data, checkpoints in /checkpoints; the
# working folder /run/saffron is the one place that is written. User 65532, any read-only root.
#
# DESIGN: the libraries of the final stage are not listed anywhere: the build stage asks the loader what the
# programs need and dpkg which packages that is, so nothing drifts and another base may name its packages otherwise.
# nats-server comes along (11 MB) so that `local` works with nothing else; in Kubernetes NATS is its own pod.
# Programs are stripped; their symbols are the stage `debug`, found by build id.
#
# The CUDA variant is another base and nothing else (docs/image.md tells which).
ARG BASE=debian:12.15-slim
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS build
WORKDIR /src
COPY scripts/deps.sh scripts/packages-build.txt scripts/
RUN scripts/deps.sh build
COPY . .
# Warnings of another base's compiler are no reason to have no image.
RUN make -j"$(nproc)" WERROR=0 && scripts/image_tree.sh build/release /opt/saffron /symbols

FROM scratch AS debug
COPY --from=build /symbols /

FROM ${BASE}
COPY --from=build /opt/saffron/packages.txt /opt/saffron/
RUN apt-get -qq update && \
    DEBIAN_FRONTEND=noninteractive xargs apt-get -qq install -y --no-install-recommends </opt/saffron/packages.txt && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log && \
    echo 'saffron:x:65532:' >>/etc/group && \
    echo 'saffron:x:65532:65532:Saffron:/run/saffron:/usr/sbin/nologin' >>/etc/passwd && \
    mkdir -p /etc/saffron/job /data /checkpoints /run/saffron && \
    chown 65532:65532 /checkpoints /run/saffron
COPY --from=build /opt/saffron /opt/saffron
ENV PATH=/opt/saffron/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    SAFFRON_BIN_DIR=/opt/saffron/bin
USER 65532:65532
WORKDIR /run/saffron
VOLUME /run/saffron
ENTRYPOINT ["/opt/saffron/launch.sh"]
CMD ["--help"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="saffron" \
      org.opencontainers.image.description="Distributed training of recommender models: all roles" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
