// module.cc: the Python module earshot._native, put together from the parts of bind_*.cc.

#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_signal(nb::module_& m);
void bind_model(nb::module_& m);
void bind_kernels(nb::module_& m);
void bind_biasing(nb::module_& m);

NB_MODULE(_native, m) {
  m.attr("__version__") = EARSHOT_VERSION;
  bind_signal(m);
  bind_model(m);
  bind_kernels(m);
  bind_biasing(m);
}
