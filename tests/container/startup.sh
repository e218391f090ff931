#!/bin/bash
# Process 1 of the container. As that of the observatory's image, it starts `run_ocps $RUN_ARG` in the background, and
# its trap sends SIGTERM twice.
pid=0

stop() {
  if [ "$pid" != 0 ]; then
    kill -TERM "$pid"
    wait "$pid"
    echo "run_ocps ended with $?"
  fi
  exit 143
}

trap 'kill $!; stop' TERM

echo '# Starting OCPS CSC'
# shellcheck disable=SC2086 # several arguments
run_ocps $RUN_ARG &
pid=$!
wait "$pid"
echo "run_ocps ended with $?"
