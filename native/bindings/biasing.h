// biasing.h: the Python types of bind_biasing.cc that recognisers take.
#pragma once

#include <memory>

#include "hotwords.h"
#include "ngram.h"
#include "phrase_sounds.h"

struct PyHotwords {
  std::shared_ptr<const earshot::Hotwords> shared;
  std::shared_ptr<const earshot::PhraseSounds> sounds;  // null: nobody says
};

struct PyNgram {
  std::shared_ptr<const earshot::Ngram> shared;
};

// A model of bind_model.cc.
std::shared_ptr<const earshot::Model> NativeModel(nanobind::handle model);
