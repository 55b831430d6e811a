# Gesso's images, by target:
#
#   airflow        Airflow with all of Gesso: every part of a deployment but training pods
#   trainer        Gesso's command line with TensorFlow and CUDA: training pods
#   trainer-cpu    the same without CUDA
#
#   docker build --target trainer-cpu --tag gesso/trainer-cpu:0.1.0 .
#
# The bases are tags here; docs/deploy.md says how to pin them by digest.
ARG AIRFLOW_IMAGE=apache/airflow:slim-3.3.2-python3.11
ARG PYTHON_IMAGE=python:3.11-slim-bookworm


FROM ${AIRFLOW_IMAGE} AS airflow
# The lock alone says what is installed: the slim base brings no other providers that could contradict it. An image has
# no display, so it gets OpenCV without windows; the other would want a graphics stack of 150 MB. And it compiles nothing
# against TensorFlow, whose headers take 430 MB.
RUN --mount=type=bind,source=requirements.txt,target=/requirements.txt \
    --mount=type=cache,target=/home/airflow/.cache,uid=50000,gid=0 \
    sed 's/^opencv-python==/opencv-python-headless==/' /requirements.txt \
    | UV_LINK_MODE=copy uv pip install --no-deps --compile-bytecode --requirement - \
    && rm -r /home/airflow/.local/lib/python3.11/site-packages/tensorflow/include
ENV PYTHONPATH=/opt/airflow \
    GESSO_HOME=/opt/airflow/gesso \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS=False
# Any user of group 0 may write there, which is how the base does it too.
RUN mkdir --mode=775 /opt/airflow/gesso
COPY . /opt/airflow/


FROM ${PYTHON_IMAGE} AS packages
ENV VIRTUAL_ENV=/opt/venv UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN --mount=type=cache,target=/root/.cache \
    python -m venv --without-pip /opt/venv && python -m venv /opt/uv && /opt/uv/bin/pip install --quiet uv==0.13.9

FROM packages AS packages-cpu
RUN --mount=type=bind,source=requirements-trainer.txt,target=/requirements.txt \
    --mount=type=cache,target=/root/.cache \
    /opt/uv/bin/uv pip install --no-deps --requirement /requirements.txt \
    && rm -r /opt/venv/lib/python3.11/site-packages/tensorflow/include

# CUDA's libraries, to be laid over the packages: a layer of its own, so both trainers share the others.
FROM packages AS packages-cuda
RUN --mount=type=bind,source=requirements-trainer-cuda.txt,target=/requirements.txt \
    --mount=type=cache,target=/root/.cache \
    grep '^nvidia-' /requirements.txt \
    | /opt/uv/bin/uv pip install --no-deps --target /opt/cuda --requirement -


# Works with a read-only root, any user and no home: all it writes goes to /tmp.
FROM ${PYTHON_IMAGE} AS trainer-base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/gesso \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    GESSO_HOME=/tmp/gesso
WORKDIR /opt/gesso
USER 1000:1000
ENTRYPOINT ["python", "-m", "tasks"]
CMD ["--help"]

FROM trainer-base AS trainer-cpu
COPY --from=packages-cpu /opt/venv /opt/venv
COPY tasks /opt/gesso/tasks

FROM trainer-base AS trainer
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=packages-cpu /opt/venv /opt/venv
COPY --from=packages-cuda /opt/cuda /opt/venv/lib/python3.11/site-packages
COPY tasks /opt/gesso/tasks
