# shellcheck shell=bash
# Functions for shell scripts that ask ALİM by grpcurl; `source` it. Needs grpcurl 1.9 and jq.

# Calls a method: alim METHOD JSON [OPTION...]. Prints the JSON of the answer or of its events. If the call fails, it prints a
# google.rpc.Status as JSON on standard error and returns 64 + the status code.
# ALIM_REQUEST_ID names the call in the logs; in a service, set it to the id of the request that you serve.
alim() {
  local command
  alim_command "$@" && "${command[@]}"
}

# Sets the array `command` to what alim would run, for who wants to run it in the background and end it.
alim_command() {
  local method=$1 question=$2
  shift 2
  # The descriptor set stands in for reflection, and decodes the details of a failure.
  command=(grpcurl -protoset proto/descriptor_set.binpb -format-error)
  if [[ -n ${ALIM_CA_FILE:-} ]]; then
    command+=(-cacert "$ALIM_CA_FILE")
  else
    command+=(-plaintext)
  fi
  if [[ -n ${ALIM_CALLER_KEY:-} ]]; then
    [[ -n ${ALIM_CA_FILE:-} ]] || { echo "a key needs TLS: set ALIM_CA_FILE too" >&2; return 64; }
    # grpcurl reads the key from the environment: an argument could be read by every user of the machine.
    # shellcheck disable=SC2016
    command+=(-expand-headers -H 'authorization: Bearer ${ALIM_CALLER_KEY}')
  fi
  [[ -z ${ALIM_REQUEST_ID:-} ]] || command+=(-H "x-request-id: $ALIM_REQUEST_ID")
  command+=("$@" -d "$question" "${ALIM_ADDRESS:-127.0.0.1:50051}" "alim.v1.$method")
}

# Prints an answer while it is made: alim METHOD JSON | typed
typed() {
  jq --unbuffered --raw-output --join-output '.token.text // empty'
}

# One value of a failure: failure FILTER <status.json, with these functions for the filter: reason, fields, retry_after, sent,
# events_delivered. What the bridge does not say is null.
failure() {
  jq --raw-output '
    def detail($name): first(.details[]? | select(."@type" | endswith("/google.rpc." + $name))) // null;
    def reason: detail("ErrorInfo").reason;
    def fields: detail("BadRequest").fieldViolations // [] | map("\(.field): \(.description)");
    def retry_after: detail("RetryInfo").retryDelay | if . then rtrimstr("s") | tonumber else null end;
    def sent: detail("ErrorInfo").metadata.sent;
    def events_delivered: detail("ErrorInfo").metadata.eventsDelivered;
    '"$1"
}

# As alim, and asks up to four times: grpcurl reads no service config. It asks again only if the bridge says when, or if nothing
# was sent to ALİM.
alim_retrying() {
  local attempt code status again
  status=$(mktemp)
  for attempt in 1 2 3 4; do
    code=0
    alim "$@" 2>"$status" || code=$?
    again=
    if ((code == 64 + 14)); then # UNAVAILABLE
      again=$(failure "retry_after // (if sent == \"false\" then 0.3 * pow(3; $attempt - 1) else empty end)" <"$status")
    fi
    if [[ -z $again ]] || ((attempt == 4)); then
      break
    fi
    sleep "$again"
  done
  cat "$status" >&2
  rm "$status"
  return "$code"
}
