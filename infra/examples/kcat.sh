#!/bin/sh
# Writes a call to Kafka with kcat alone: kcat.sh KAFKA START END (times in RFC 3339). Sent again, it changes nothing.
# murmur2_random, because kcat (librdkafka) would else place keys by crc32, apart from all other producers' events.
set -eu
kafka=$1 start=$2 end=$3
tab=$(printf '\t')

# One line for one event: the key project/room, a tab, the event.
event() {
  printf 'acme/standup\t{"specversion": "1.0", "id": "kcat-17-%s", "source": "kcat", "type": "%s", "time": "%s", ' "$1" "$1" "$2"
  printf '"data": {"project": "acme", "room": "standup", "session": "kcat-17", "kind": "participant"}}\n'
}

{ event session.connected "$start"; event session.disconnected "$end"; } |
  kcat -P -b "$kafka" -t "${TOPIC:-lifecycle}" -K "$tab" \
    -H 'content-type=application/cloudevents+json; charset=UTF-8' \
    -X acks=all -X enable.idempotence=true -X partitioner=murmur2_random
