#!/bin/bash
# Stands in for Kafka's own: whether the broker listens. (Java takes seconds to start.)
address=${2%:*} port=${2#*:}
exec 3<>"/dev/tcp/$address/$port"
