// json.cc: the recursive-descent parser behind json.h. Depth is capped, so the
// recursion is too.
#include "json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace earshot {

const char* JsonKindName(JsonKind kind) {
  switch (kind) {
    case JsonKind::kNull: return "null";
    case JsonKind::kBool: return "a boolean";
    case JsonKind::kNumber: return "a number";
    case JsonKind::kString: return "a string";
    case JsonKind::kArray: return "a list";
    case JsonKind::kObject: return "an object";
  }
  return "?";
}

JsonKind JsonValue::kind() const { return document_->nodes_[index_].kind; }
bool JsonValue::IsInteger() const { return document_->nodes_[index_].is_integer; }
bool JsonValue::boolean() const { return document_->nodes_[index_].number != 0; }
double JsonValue::number() const { return document_->nodes_[index_].number; }
int64_t JsonValue::integer() const { return document_->nodes_[index_].integer; }

std::string_view JsonValue::string() const {
  const JsonDocument::Node& node = document_->nodes_[index_];
  if (node.kind != JsonKind::kString) return {};
  return std::string_view(document_->text_).substr(node.first, node.size);
}

size_t JsonValue::size() const {
  const JsonDocument::Node& node = document_->nodes_[index_];
  return node.kind == JsonKind::kArray || node.kind == JsonKind::kObject ? node.size : 0;
}

JsonValue JsonValue::first() const {
  const JsonDocument::Node& node = document_->nodes_[index_];
  if (size() == 0) return {};
  return JsonValue(document_, node.first);
}

JsonValue JsonValue::next() const {
  const uint32_t next = document_->nodes_[index_].next;
  return next == JsonDocument::kNone ? JsonValue() : JsonValue(document_, next);
}

std::string_view JsonValue::key() const {
  const JsonDocument::Node& node = document_->nodes_[index_];
  return std::string_view(document_->text_).substr(node.key_offset, node.key_size);
}

JsonValue JsonValue::Find(std::string_view key) const {
  if (kind() != JsonKind::kObject) return {};
  for (JsonValue v = first(); v; v = v.next()) {
    if (v.key() == key) return v;
  }
  return {};
}

// Fills a document. Children are chained by `next`, because a child's own
// children are appended between it and its sibling.
class JsonParser {
 public:
  JsonParser(std::string_view text, JsonDocument* document) : text_(text), out_(*document) {}

  void Run() {
    if (text_.size() > JsonDocument::kMaxBytes) {
      throw JsonError(0, "JSON of " + std::to_string(text_.size()) + " bytes is over the cap of " +
                             std::to_string(JsonDocument::kMaxBytes));
    }
    CheckUtf8();
    out_.text_.reserve(text_.size());
    SkipSpace();
    Value(1);
    SkipSpace();
    if (at_ != text_.size()) Fail("text after the JSON value");
  }

 private:
  [[noreturn]] void Fail(const std::string& what) const { throw JsonError(at_, what); }

  // The whole text at once: overlong forms, surrogates and values over
  // U+10FFFF are refused, so every string that follows is sound.
  void CheckUtf8() {
    const auto* s = reinterpret_cast<const unsigned char*>(text_.data());
    const size_t n = text_.size();
    for (size_t i = 0; i < n;) {
      const unsigned char c = s[i];
      if (c < 0x80) {
        ++i;
        continue;
      }
      const size_t more = c >= 0xC2 && c < 0xE0 ? 1 : c >= 0xE0 && c < 0xF0 ? 2 : c >= 0xF0 && c < 0xF5 ? 3 : 0;
      bool good = more != 0 && i + more < n;
      for (size_t k = 1; good && k <= more; ++k) good = (s[i + k] & 0xC0) == 0x80;
      if (good && c == 0xE0) good = s[i + 1] >= 0xA0;
      if (good && c == 0xED) good = s[i + 1] < 0xA0;
      if (good && c == 0xF0) good = s[i + 1] >= 0x90;
      if (good && c == 0xF4) good = s[i + 1] < 0x90;
      if (!good) {
        at_ = i;
        Fail("text that is not UTF-8");
      }
      i += more + 1;
    }
  }

  void SkipSpace() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' ||
                                  text_[at_] == '\r')) {
      ++at_;
    }
  }

  char Peek() const {
    if (at_ >= text_.size()) Fail("JSON that ends early");
    return text_[at_];
  }

  void Expect(char c) {
    if (Peek() != c) Fail(std::string("no '") + c + "' where one must be");
    ++at_;
  }

  void Word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) Fail("an unknown word");
    at_ += word.size();
  }

  uint32_t Value(int depth) {
    if (depth > JsonDocument::kMaxDepth) {
      Fail("nesting deeper than " + std::to_string(JsonDocument::kMaxDepth));
    }
    const uint32_t index = static_cast<uint32_t>(out_.nodes_.size());
    out_.nodes_.emplace_back();
    JsonDocument::Node node;
    switch (Peek()) {
      case '{':
        node = Members(depth);
        break;
      case '[':
        node = Items(depth);
        break;
      case '"': {
        node.kind = JsonKind::kString;
        String(&node.first, &node.size);
        break;
      }
      case 't':
        Word("true");
        node.kind = JsonKind::kBool;
        node.number = 1;
        break;
      case 'f':
        Word("false");
        node.kind = JsonKind::kBool;
        break;
      case 'n':
        Word("null");
        break;
      default:
        Number(&node);
    }
    out_.nodes_[index] = node;
    return index;
  }

  JsonDocument::Node Items(int depth) {
    JsonDocument::Node node;
    node.kind = JsonKind::kArray;
    Expect('[');
    SkipSpace();
    if (Peek() == ']') {
      ++at_;
      return node;
    }
    uint32_t last = JsonDocument::kNone;
    for (;;) {
      SkipSpace();
      const uint32_t child = Value(depth + 1);
      Append(&node, &last, child);
      SkipSpace();
      if (Peek() == ']') break;
      Expect(',');
    }
    ++at_;
    return node;
  }

  JsonDocument::Node Members(int depth) {
    JsonDocument::Node node;
    node.kind = JsonKind::kObject;
    const size_t start = at_;
    Expect('{');
    SkipSpace();
    if (Peek() == '}') {
      ++at_;
      return node;
    }
    uint32_t last = JsonDocument::kNone;
    for (;;) {
      SkipSpace();
      if (Peek() != '"') Fail("a key that is not a string");
      uint32_t key_offset = 0, key_size = 0;
      String(&key_offset, &key_size);
      SkipSpace();
      Expect(':');
      SkipSpace();
      const uint32_t child = Value(depth + 1);
      out_.nodes_[child].key_offset = key_offset;
      out_.nodes_[child].key_size = key_size;
      Append(&node, &last, child);
      SkipSpace();
      if (Peek() == '}') break;
      Expect(',');
    }
    ++at_;
    // Sorting, not hashing: no input can make this slow.
    std::vector<std::string_view> keys;
    keys.reserve(node.size);
    for (uint32_t i = node.first; i != JsonDocument::kNone; i = out_.nodes_[i].next) {
      const JsonDocument::Node& child = out_.nodes_[i];
      keys.push_back(std::string_view(out_.text_).substr(child.key_offset, child.key_size));
    }
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) {
      throw JsonError(start, "an object with the key " + Quoted(*twice) + " twice");
    }
    return node;
  }

  void Append(JsonDocument::Node* node, uint32_t* last, uint32_t child) {
    if (*last == JsonDocument::kNone) {
      node->first = child;
    } else {
      out_.nodes_[*last].next = child;
    }
    *last = child;
    ++node->size;
  }

  unsigned Hex4() {
    unsigned value = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = Peek();
      unsigned digit;
      if (c >= '0' && c <= '9') {
        digit = static_cast<unsigned>(c - '0');
      } else if (c >= 'a' && c <= 'f') {
        digit = static_cast<unsigned>(c - 'a') + 10;
      } else if (c >= 'A' && c <= 'F') {
        digit = static_cast<unsigned>(c - 'A') + 10;
      } else {
        Fail("a \\u escape without four hexadecimal digits");
      }
      value = value * 16 + digit;
      ++at_;
    }
    return value;
  }

  void PutUtf8(unsigned code) {
    std::string& out = out_.text_;
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xC0 | (code >> 6));
      out += static_cast<char>(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      out += static_cast<char>(0xE0 | (code >> 12));
      out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
      out += static_cast<char>(0x80 | (code & 0x3F));
    } else {
      out += static_cast<char>(0xF0 | (code >> 18));
      out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
      out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
      out += static_cast<char>(0x80 | (code & 0x3F));
    }
  }

  void String(uint32_t* offset, uint32_t* size) {
    Expect('"');
    const size_t start = out_.text_.size();
    for (;;) {
      const char c = Peek();
      if (static_cast<unsigned char>(c) < 0x20) Fail("a control character in a string");
      ++at_;
      if (c == '"') break;
      if (c != '\\') {
        out_.text_ += c;
        continue;
      }
      const char escape = Peek();
      ++at_;
      switch (escape) {
        case '"': case '\\': case '/': out_.text_ += escape; break;
        case 'b': out_.text_ += '\b'; break;
        case 'f': out_.text_ += '\f'; break;
        case 'n': out_.text_ += '\n'; break;
        case 'r': out_.text_ += '\r'; break;
        case 't': out_.text_ += '\t'; break;
        case 'u': {
          unsigned code = Hex4();
          if (code >= 0xDC00 && code < 0xE000) Fail("half a surrogate pair");
          if (code >= 0xD800 && code < 0xDC00) {
            if (Peek() != '\\') Fail("half a surrogate pair");
            ++at_;
            if (Peek() != 'u') Fail("half a surrogate pair");
            ++at_;
            const unsigned low = Hex4();
            if (low < 0xDC00 || low >= 0xE000) Fail("half a surrogate pair");
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
          }
          if (code == 0) Fail("a NUL character in a string");
          PutUtf8(code);
          break;
        }
        default: Fail("an unknown escape");
      }
    }
    *offset = static_cast<uint32_t>(start);
    *size = static_cast<uint32_t>(out_.text_.size() - start);
  }

  bool Digits() {
    const size_t start = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    return at_ > start;
  }

  void Number(JsonDocument::Node* node) {
    const size_t start = at_;
    if (text_[at_] == '-') ++at_;
    const size_t digits = at_;
    if (!Digits()) {
      at_ = start;
      Fail("something that is not a JSON value");
    }
    if (text_[digits] == '0' && at_ > digits + 1) Fail("a number with a leading zero");
    bool integer = at_ - digits <= 18;
    if (at_ < text_.size() && text_[at_] == '.') {
      integer = false;
      ++at_;
      if (!Digits()) Fail("a number without digits after its point");
    }
    if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
      integer = false;
      ++at_;
      if (at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '-')) ++at_;
      if (!Digits()) Fail("a number without digits in its exponent");
    }
    const char* const from = text_.data() + start;
    const char* const to = text_.data() + at_;
    node->kind = JsonKind::kNumber;
    const auto parsed = std::from_chars(from, to, node->number);
    if (parsed.ec != std::errc() || parsed.ptr != to || !std::isfinite(node->number)) {
      Fail("a number outside the range of a double");
    }
    if (integer) {
      node->is_integer = true;
      std::from_chars(from, to, node->integer);
    }
  }

  std::string_view text_;
  JsonDocument& out_;
  size_t at_ = 0;
};

JsonDocument::JsonDocument(std::string_view text) { JsonParser(text, this).Run(); }

std::string JsonQuote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          char buffer[8];
          std::snprintf(buffer, sizeof buffer, "\\u%04x", static_cast<unsigned>(static_cast<unsigned char>(c)));
          out += buffer;
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

std::string Quoted(std::string_view name) {
  if (name.size() <= 64) return JsonQuote(name);
  size_t cut = 64;
  while (cut > 0 && (static_cast<unsigned char>(name[cut]) & 0xC0) == 0x80) --cut;
  return JsonQuote(std::string(name.substr(0, cut)) + "...");
}

}  // namespace earshot
