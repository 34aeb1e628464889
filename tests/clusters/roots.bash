# Root file systems of the images that the container engines of the tests have; sourced by their scripts.
# Needs busybox-static and mmdebstrap. `make_root NAME` leaves $state/NAME.tar.

suite=bookworm

busybox_root() {
  local root each
  root=$(mktemp -d)
  chmod 755 "$root"
  mkdir -p "$root"/{bin,tmp,etc,root,proc,sys,dev}
  chmod 1777 "$root/tmp"
  cp /bin/busybox "$root/bin/busybox"
  for each in $(/bin/busybox --list); do
    [ "$each" = busybox ] || ln -s busybox "$root/bin/$each"
  done
  printf '#!/bin/sh\nexec /bin/sh "$@"\n' >"$root/bin/bash"
  chmod 755 "$root/bin/bash"
  echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
  echo 'root:x:0:' >"$root/etc/group"
  tar -C "$root" --numeric-owner --owner=0 --group=0 -cf "$1" .
  rm -rf "$root"
}

debian_root() { # with python3, and `python`
  local mirror
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/*$')
  mmdebstrap --quiet --variant=minbase --include=python3 --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --customize-hook='ln -s python3 "$1/usr/bin/python"' \
    "$suite" "$1" "$mirror" >&2
}

make_root() { # make_root NAME: the tarball appears whole
  [ -s "$state/$1.tar" ] && return 0
  "$1_root" "$state/$1.new.tar"
  mv "$state/$1.new.tar" "$state/$1.tar"
}

empty_root() { # an image with nothing to run
  local root
  root=$(mktemp -d)
  chmod 755 "$root"
  : >"$root/empty"
  tar -C "$root" -cf "$1" empty
  rm -rf "$root"
}

entry_root() { # an entry point that hands to bash what is no program, as that of the published bash image
  local root
  root=$(mktemp -d)
  chmod 755 "$root"
  mkdir -p "$root/usr/local/bin"
  cat >"$root/usr/local/bin/docker-entrypoint.sh" <<'END'
#!/bin/sh
case $1 in
  -* | *.sh) exec bash "$@" ;;
esac
command -v "$1" >/dev/null && exec "$@"
exec bash "$@"
END
  chmod 755 "$root/usr/local/bin/docker-entrypoint.sh"
  tar -C "$root" --numeric-owner --owner=0 --group=0 -cf "$1" usr
  rm -rf "$root"
}
