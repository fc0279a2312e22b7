// biasing.h: the Python types of bind_biasing.cc that recognisers take.
#pragma once

#include <memory>

#include "hotwords.h"
#include "ngram.h"

struct PyHotwords {
  std::shared_ptr<const earshot::Hotwords> shared;
};

struct PyNgram {
  std::shared_ptr<const earshot::Ngram> shared;
};

// A model of bind_model.cc.
std::shared_ptr<const earshot::Model> NativeModel(nanobind::handle model);
