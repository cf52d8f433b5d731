#!/usr/bin/env bash
# Installs as an ordinary user where nothing but a compiler and Python belongs to the system: see usage below.
set -eu
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

usage() {
    cat <<'END'
usage: bash jobs/install/try_bare.sh FOLDER

Makes a cluster's login node in FOLDER (about 2 GB) and installs there: a Debian with gcc, pkg-config and Python 3.11, without
apt, Meson, libconfig or cmocka; MPI, HDF5, ScaLAPACK and OpenBLAS lie below /opt/site and are found by variables alone, as a module
sets them. An ordinary user without a network runs install.sh with wheels and libconfig's archive brought along. Then the sources
are removed, and the installed copy says its version, checks the machine on two ranks and trains by its own batch script.
Needs root, debootstrap and a network outside of FOLDER. What was made is used again.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; "" | -*) usage >&2; exit 2 ;; esac
mkdir -p "$1"
folder=$(cd "$1" && pwd) system=$folder/root
step() { printf '\n== %s\n' "$1"; }
for tool in debootstrap dpkg unshare setpriv; do
    command -v "$tool" >/dev/null || { echo "needs $tool" >&2; exit 2; }
done
[ "$(id -u)" -eq 0 ] || { echo "needs root" >&2; exit 2; }

step "A system with a compiler and Python"
[ -e "$folder/system.done" ] || debootstrap --variant=minbase --include=gcc,libc6-dev,pkg-config,python3,python3-venv bookworm "$system" \
    http://deb.debian.org/debian >"$folder/debootstrap.log"
touch "$folder/system.done"

step "The site's libraries below /opt/site"
site=$system/opt/site
if [ ! -e "$folder/site.done" ]; then
    chroot "$system" apt-get install -y -q --no-install-recommends --download-only libopenmpi-dev openmpi-bin libhdf5-openmpi-dev \
        libscalapack-openmpi-dev libopenblas-pthread-dev >"$folder/packages.log"
    mkdir -p "$site"
    mkdir -p "$folder/packages" && mv "$system"/var/cache/apt/archives/*.deb "$folder/packages/"
    for package in "$folder"/packages/*.deb; do dpkg -x "$package" "$site"; done
    usr=$site/usr libraries=$site/usr/lib/x86_64-linux-gnu
    grep -rlZ --include='*.pc' /usr "$libraries" | xargs -0 sed -i --follow-symlinks -E 's#(^|[ =ILR])/usr(/|$)#\1/opt/site/usr\2#g'
    # what dpkg's alternatives do
    for name in mpicc mpirun mpiexec; do ln -sf "$name.openmpi" "$usr/bin/$name"; done
    ln -sf ompi.pc "$libraries/pkgconfig/mpi.pc"
    for name in blas lapack; do ln -sf "../openblas-pthread/pkgconfig/$name-openblas.pc" "$libraries/pkgconfig/$name.pc"; done
    cat >"$site/env.sh" <<'END'
# as the site's modules would set them
p=/opt/site/usr l=/opt/site/usr/lib/x86_64-linux-gnu
export PATH=$p/bin:$PATH LD_LIBRARY_PATH=$l:$l/openblas-pthread:$l/openmpi/lib:/opt/site/lib/x86_64-linux-gnu LIBRARY_PATH=$l:$l/openblas-pthread:$l/openmpi/lib
export PKG_CONFIG_PATH=$l/pkgconfig:$l/openmpi/lib/pkgconfig
export OPAL_PREFIX=$p OPAL_LIBDIR=$l/openmpi/lib OPAL_DATADIR=$p/share OPAL_PKGDATADIR=$p/share/openmpi OPAL_PKGLIBDIR=$l/openmpi/lib/openmpi3
export OPAL_SYSCONFDIR=/opt/site/etc/openmpi PMIX_INSTALL_PREFIX=$p PMIX_LIBDIR=$l/pmix2/lib PMIX_PKGLIBDIR=$l/pmix2/lib/pmix
END
    rm -rf "$system"/usr/bin/{apt,dpkg}* "$usr"/bin/{apt,dpkg}* "$system"/var/cache/apt
    chroot "$system" useradd -m -u 1000 user 2>/dev/null || true
    touch "$folder/site.done"
fi

step "What the user brings along: the sources, wheels, libconfig's archive"
home=$system/home/user archive=libconfig-1.7.3.tar.gz
rm -rf "$home" && mkdir -p "$home/catdpo" "$home/wheels" "$home/run"
git -C "$root" archive HEAD | tar -x -C "$home/catdpo"
mkdir -p "$folder/wheels"
mapfile -t wanted < <(sed -n '/^dependencies/,/^]/s/^ *"\(.*\)",$/\1/p' "$root/analysis/pyproject.toml")
[ -e "$folder/wheels.done" ] || python3 -m pip download -q --only-binary :all: --python-version 3.11 -d "$folder/wheels" \
    "${wanted[@]}" meson ninja "setuptools>=64"
touch "$folder/wheels.done"
cp "$folder"/wheels/* "$home/wheels/"
mkdir -p "$home/catdpo/subprojects/packagecache"
if [ -e "$root/subprojects/packagecache/$archive" ]; then
    cp "$root/subprojects/packagecache/$archive" "$home/catdpo/subprojects/packagecache/"
else
    curl -fsSL -o "$home/catdpo/subprojects/packagecache/$archive" \
        "$(sed -n 's/^source_url = //p' "$root/subprojects/libconfig.wrap")"
fi
cp "$root/tests/reference/tiny_pairs.h5" "$root/tests/reference/tiny_llama.h5" "$home/run/"
cat >"$home/run/run.cfg" <<'END'
run: { dir = "first"; };
model: { path = "tiny_llama.h5"; };
data: { path = "tiny_pairs.h5"; };
batch: { pairs = 6; };
schedule: { steps = 5; };
END
cat >"$home/install.sh" <<'END'
set -e
. /opt/site/env.sh
export HOME=/home/user OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl=self,vader,tcp OMPI_MCA_plm_rsh_agent=
for name in apt-get meson ninja cmocka; do ! command -v $name || exit 1; done
! pkg-config --exists libconfig
cd ~/catdpo
PIP_NO_INDEX=1 PIP_FIND_LINKS=$HOME/wheels bash jobs/install/install.sh ~/opt
rm -rf ~/catdpo ~/wheels
cd ~/run
export PATH=$HOME/opt/bin:$PATH
head -n 1 ~/opt/share/man/man1/catdpo.1
mpirun -n 2 catdpo selfcheck ~/run
. ~/opt/share/catdpo/jobs/site.sh
SLURM_JOB_ID=1 SLURM_JOB_NODELIST=$(cat /proc/sys/kernel/hostname) SLURM_NTASKS=2 SLURM_CPUS_ON_NODE=2 CATDPO_LAUNCHER=mpirun CATDPO_MPIRUN_OPTIONS=" " \
    bash $CATDPO_ROOT/jobs/train.sbatch run.cfg
catdpo-analysis report first --no-html
END
chown -R 1000:1000 "$home"

step "Installing there, as the user, without a network"
unshare --mount --pid --fork --net bash -c '
    mount --make-rprivate /
    mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount -t tmpfs tmpfs "$1/tmp"
    chmod 1777 "$1/tmp"
    ip link set lo up 2>/dev/null || true
    exec chroot "$1" /usr/bin/env -i PATH=/usr/bin:/bin LC_ALL=C.UTF-8 OPENBLAS_NUM_THREADS=1 \
        setpriv --reuid 1000 --regid 1000 --clear-groups bash /home/user/install.sh' bash "$system"
printf '\nInstalled and used without root, apt or a network.\n'
