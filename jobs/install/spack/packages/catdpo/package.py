"""Spack's recipe for the trainer. From the repository: spack repo add jobs/install/spack && spack install catdpo"""

import os

from spack.package import depends_on, license, variant, version

try:  # since Spack 1.0 the build systems lie in the builtin repository
    from spack_repo.builtin.build_systems.meson import MesonPackage
except ImportError:
    from spack.package import MesonPackage


class Catdpo(MesonPackage):
    """Direct preference optimisation of language models with a safety margin for each harm category, on MPI,
    ScaLAPACK and parallel HDF5."""

    # the checkout that this file is part of
    git = "file://" + os.path.abspath(os.path.join(os.path.dirname(os.path.realpath(__file__)), *[os.pardir] * 5))

    license("Apache-2.0")

    version("main", branch="main")

    variant("pages", default=True, description="Manual pages and shell completion, made by running the program")

    depends_on("c", type="build")
    depends_on("meson@1.0:", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("python@3.11:", type="build")
    depends_on("mpi")
    depends_on("scalapack")
    depends_on("blas")
    depends_on("lapack")
    depends_on("hdf5+mpi+hl")
    depends_on("libconfig")
    depends_on("cmocka", type="test")

    def setup_build_environment(self, env):
        env.set("MPICC", self.spec["mpi"].mpicc)  # Meson asks it for MPI's flags

    def meson_args(self):
        libraries = {name: self.spec[name].libs.ld_flags for name in ("scalapack", "blas")}
        libraries["blas"] = f"{self.spec['lapack'].libs.ld_flags} {libraries['blas']}"
        return [
            *(f"-D{name}={flags}" for name, flags in libraries.items()),
            f"-Dtests={'true' if self.run_tests else 'false'}",
            f"-Dpages={'true' if self.spec.satisfies('+pages') else 'false'}",
        ]
