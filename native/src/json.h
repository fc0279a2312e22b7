// json.h: strict JSON for model headers.
//
// Knows RFC 8259 and nothing of models. Stricter than most readers, because a
// header comes from a file that nobody vouches for: duplicate keys, numbers that
// are not finite, text that is not UTF-8, NUL in strings and deep nesting are
// errors, and nothing is guessed. Values live in one flat array, so memory is
// bounded by the number of tokens and never by nesting.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace earshot {

class JsonError : public std::runtime_error {
 public:
  JsonError(size_t offset, const std::string& what)
      : std::runtime_error(what + " at byte " + std::to_string(offset)) {}
};

enum class JsonKind : uint8_t { kNull, kBool, kNumber, kString, kArray, kObject };

const char* JsonKindName(JsonKind kind);

class JsonDocument;

// A view of one value; valid while its document lives and stays where it is.
class JsonValue {
 public:
  JsonValue() = default;
  explicit operator bool() const { return document_ != nullptr; }

  JsonKind kind() const;
  bool IsInteger() const;        // written without fraction or exponent, at most 18 digits
  bool boolean() const;          // kBool
  double number() const;         // kNumber
  int64_t integer() const;       // IsInteger()
  std::string_view string() const;  // kString
  size_t size() const;           // items of an array, members of an object

  // Children in order: for (JsonValue v = a.first(); v; v = v.next()).
  JsonValue first() const;
  JsonValue next() const;
  std::string_view key() const;  // of a member of an object
  JsonValue Find(std::string_view key) const;  // empty when an object lacks the key

 private:
  friend class JsonDocument;
  JsonValue(const JsonDocument* document, uint32_t index) : document_(document), index_(index) {}
  const JsonDocument* document_ = nullptr;
  uint32_t index_ = 0;
};

class JsonDocument {
 public:
  static constexpr int kMaxDepth = 32;
  static constexpr size_t kMaxBytes = size_t{1} << 20;

  // Throws JsonError. `text` need not outlive the document.
  explicit JsonDocument(std::string_view text);
  JsonDocument(const JsonDocument&) = delete;
  JsonDocument& operator=(const JsonDocument&) = delete;

  JsonValue root() const { return JsonValue(this, 0); }

 private:
  friend class JsonValue;
  friend class JsonParser;
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Node {
    double number = 0;          // also the boolean
    int64_t integer = 0;
    uint32_t first = kNone;     // first child, or offset of the string in `text_`
    uint32_t size = 0;          // children, or bytes of the string
    uint32_t next = kNone;
    uint32_t key_offset = 0;
    uint32_t key_size = 0;
    JsonKind kind = JsonKind::kNull;
    bool is_integer = false;
  };
  std::vector<Node> nodes_;
  std::string text_;  // unescaped strings, one after another
};

// `text` as a JSON string literal with its quotes.
std::string JsonQuote(std::string_view text);

// UTF-8 text of a file for an error message: quoted, cut at 64 bytes and never inside a character.
std::string Quoted(std::string_view name);

}  // namespace earshot
