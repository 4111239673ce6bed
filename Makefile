# make train | make test | make bench | make lint: each sets up what it needs, once.
PYTHON ?= python3
VENV ?= .venv
RECIPE ?= hard-digits
ARGS ?=

BIN := $(VENV)/bin
SOURCES := $(shell find csrc kernels -name '*.h' -o -name '*.cpp' -o -name '*.cu') CMakeLists.txt setup.py
CXX_FILES := $(filter %.h %.cpp %.cu,$(SOURCES))

# Arguments of cmake for a build of its own, beside that of setup.py.
CMAKE_ARGS = -G Ninja -S . -DCMAKE_BUILD_TYPE=Release -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
  -DPython_EXECUTABLE=$(abspath $(BIN))/python -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) \
  -DHARDFAST_TORCH_DIR=$$($(BIN)/python -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')

.PHONY: help setup train test test-asan test-gpu sanitize-gpu kernels bench bench-gpu instructions bench-pytest fuzz lint format clean
.DEFAULT_GOAL := help

help:
	@echo 'make train   distil the digits teacher with HARD and its baselines; RECIPE=... and ARGS="--seeds 1" choose'
	@echo 'make test    lint and run all tests'
	@echo 'make test-asan  10,000 random warps under AddressSanitizer and UBSan; MARCH=native for the widest vectors'
	@echo 'make kernels    compile the CUDA kernels; registers, spills, shared memory and instructions: a spill is an error'
	@echo 'make test-gpu   all tests of the ops on the GPU; without one it fails'
	@echo 'make sanitize-gpu  every CUDA kernel under compute-sanitizer: memcheck and racecheck'
	@echo 'make bench   time the ops and steps beside everything that does the same; ARGS="--quick" or "--filter warp" for less'
	@echo 'make bench-gpu  the same on the GPU'
	@echo 'make bench-pytest  the cases of --quick under pytest-benchmark'
	@echo 'make fuzz    100,000 damaged files for each reader of files; ARGS="--inputs 5000 --readers npy" for less'
	@echo 'make instructions  what the CPU kernels execute for a pixel, counted by valgrind'
	@echo 'make lint    ruff, mypy, clang-format'
	@echo 'make format  let ruff and clang-format rewrite the sources'
	@echo 'make clean   remove the build and the virtual environment'

setup: $(VENV)/.built

train: setup
	$(BIN)/hardfast train $(RECIPE) $(ARGS)

# Two processes of one thread each: more threads would wait for one another wherever there are only two cores.
test: setup lint
	OMP_NUM_THREADS=1 HARDFAST_REQUIRE=cpu $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-asan: setup
	$(BIN)/cmake $(CMAKE_ARGS) -B build/asan -DHARDFAST_SANITIZE=ON -DHARDFAST_CUDA=OFF -DCMAKE_CXX_FLAGS='$(if $(MARCH),-march=$(MARCH))'
	$(BIN)/cmake --build build/asan --target _ops_cpu
	LD_PRELOAD=$$($${CXX:-c++} -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 HARDFAST_REQUIRE=cpu HARDFAST_FUZZ=10000 \
	  HARDFAST_LIBRARY_DIR=build/asan $(BIN)/python -m pytest -s -p no:cacheprovider tests/test_warp_fuzz.py $(ARGS)

kernels: $(VENV)/.installed
	$(BIN)/cmake $(CMAKE_ARGS) -B build/kernels -DHARDFAST_CUDA=ON \
	  -DHARDFAST_CUDA_ARCHITECTURES='$(or $(HARDFAST_CUDA_ARCHITECTURES),80;86;89;90;100;120)'
	$(BIN)/cmake --build build/kernels --target cuda_kernels --clean-first > build/kernels.log 2>&1 || \
	  { cat build/kernels.log; exit 1; }
	$(BIN)/python kernels/report.py build/kernels.log --objects build/kernels $(ARGS)

test-gpu: setup
	HARDFAST_REQUIRE=cuda,triton $(BIN)/python -m pytest -p no:cacheprovider tests/gpu $(ARGS)

sanitize-gpu: setup
	@command -v compute-sanitizer >/dev/null || { echo 'compute-sanitizer was not found: it comes with the CUDA toolkit (cuda-sanitizer)'; exit 1; }
	for tool in memcheck racecheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 HARDFAST_REQUIRE=cuda compute-sanitizer --tool $$tool --error-exitcode 1 \
	    --kernel-regex kns=warp_ $(BIN)/python tests/gpu/every_kernel.py || exit 1; \
	done

fuzz: setup
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz $(ARGS)

instructions: $(VENV)/.installed
	@command -v valgrind >/dev/null || { echo 'valgrind was not found: install it (Debian, Ubuntu: apt-get install valgrind)'; exit 1; }
	$(BIN)/cmake $(CMAKE_ARGS) -B build/instructions -DHARDFAST_CUDA=OFF
	$(BIN)/cmake --build build/instructions --target count_instructions
	$(BIN)/python -m bench.instructions build/instructions/count_instructions $(ARGS)

bench: setup
	$(BIN)/hardfast bench $(ARGS)

bench-gpu: setup
	$(BIN)/hardfast bench --device cuda $(ARGS)

bench-pytest: setup
	$(BIN)/python -m pytest -p no:cacheprovider bench/test_ops.py $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf build $(VENV) hardfast/*.so

# Dependencies: again only when their list changes.
$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo '$(PYTHON) was not found: install Python 3.10 or newer, or say make PYTHON=/path/to/python'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo 'hardfast needs Python 3.10 or newer, and $(PYTHON) is '"$$($(PYTHON) -V)"': say make PYTHON=/path/to/a/newer/python'; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { echo 'no C++ compiler was found: install one (Debian, Ubuntu: apt-get install g++) or set CXX'; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo 'the virtual environment could not be made: Debian and Ubuntu need apt-get install python3-venv'; exit 1; }
	@echo 'Installing the dependencies into $(VENV) (PyTorch is several GB the first time) ...'
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt \
	  setuptools wheel cmake ninja pybind11 torch torchvision timm numpy scikit-learn safetensors tensorboard torchmetrics tqdm rich \
	  tyro matplotlib pillow pytest pytest-xdist pytest-benchmark hypothesis kornia opencv-python-headless diffusers transformers webdataset \
	  'atheris; sys_platform == "linux" and platform_machine == "x86_64" and python_version >= "3.11" and python_version < "3.14"' \
	  ruff mypy clang-format || \
	  { echo 'the dependencies could not be installed: check the network, or that pip reaches your package index'; exit 1; }
	@touch $@

# The package itself, in place: again when a compiled source changes.
$(VENV)/.built: $(VENV)/.installed $(SOURCES)
	@echo 'Compiling ...'
	@mkdir -p build
	@$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation --no-deps -v -e . > build/install.log 2>&1 || \
	  { tail -n 40 build/install.log; echo 'the compiled parts could not be built: the reason stands above'; exit 1; }
	@touch $@
