#!/bin/sh
# Enrols a data plane: makes it, unless it is there, and for each of its processes a token that is bound to it, in a file,
# unless that file is there. It may be repeated: what is there is left as it is.
#
#   enrol.sh PLANE PLATFORM FOLDER [PROCESS...]
#
#   enrol.sh local platform_aws /etc/countermand            # /etc/countermand/worker/token, .../executor/token
#   enrol.sh acme platform_snowflake ./acme worker          # ./acme/worker/token, for a worker elsewhere
#
# It runs beside the control plane, whose database it opens (COUNTERMAND_DATABASE_URL) and whose API it asks
# (COUNTERMAND_URL, by default http://127.0.0.1:8080). The files have mode 0600.
set -eu

if [ $# -lt 3 ]; then
  echo "usage: $0 PLANE PLATFORM FOLDER [PROCESS...]" >&2
  exit 2
fi
plane=$1 platform=$2 folder=$3
shift 3
[ $# -gt 0 ] || set -- worker executor
umask 077
unset COUNTERMAND_TOKEN COUNTERMAND_TOKEN_FILE COUNTERMAND_PROFILE

# Making a plane takes a token, too: one that ends with this script, and by itself within a quarter of an hour.
COUNTERMAND_TOKEN=$(countermand tokens create enrol --days 0.01 --permission data_planes:read --permission data_planes:write)
export COUNTERMAND_TOKEN
token_id=${COUNTERMAND_TOKEN#ctm_}
token_id=${token_id%%_*}
trap 'countermand tokens revoke "$token_id" > /dev/null' EXIT

not_found=5
status=0
told=$(countermand planes show "$plane" 2>&1) || status=$?
case $status in
  0) ;;
  "$not_found") countermand planes create "$plane" --platform "$platform" ;;
  *) echo "$told" >&2 && exit "$status" ;;
esac

for process in "$@"; do
  file=$folder/$process/token
  if [ -s "$file" ]; then
    echo "$file is there already."
    continue
  fi
  mkdir -p "$folder/$process"
  countermand tokens create "$plane-$process" --plane "$plane" \
    --permission jobs:write --permission data_planes:read > "$file.new"
  mv "$file.new" "$file"
  echo "Wrote $file."
done
