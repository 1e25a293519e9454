//===-- Progress.cpp - what a run shows of itself -------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Progress.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <sys/ioctl.h>
#include <unistd.h>

using namespace polymoe;

template <typename... Ts>
static std::string format(const char *pattern, Ts... values) {
  char text[256];
  std::snprintf(text, sizeof(text), pattern, values...);
  return text;
}

std::string polymoe::formatSeconds(double seconds) {
  if (!(seconds >= 0 && seconds < 1e9))
    return "?";
  const auto whole = static_cast<long long>(std::llround(seconds));
  if (whole >= 48 * 3600)
    return format("%lldd%02lldh", whole / 86400, whole / 3600 % 24);
  if (whole >= 3600)
    return format("%lldh%02lldm", whole / 3600, whole / 60 % 60);
  if (whole >= 60)
    return format("%lldm%02llds", whole / 60, whole % 60);
  return format("%llds", whole);
}

std::string polymoe::formatAmount(double amount) {
  static const char *prefixes[] = {"", "k", "M", "G", "T", "P"};
  size_t prefix = 0;
  // 999.5 would be rounded to four digits.
  while (amount >= 999.5 && prefix + 1 < std::size(prefixes)) {
    amount /= 1000;
    ++prefix;
  }
  const int digits = amount >= 99.95 ? 0 : amount >= 9.995 ? 1 : 2;
  return format("%.*f %s", prefix || amount != std::floor(amount) ? digits : 0,
                amount, prefixes[prefix]);
}

Progress::Progress(std::string label, std::string unit, int64_t total,
                   Options options)
    : label(std::move(label)), unit(std::move(unit)), total(total),
      options(options), isTerminal(::isatty(options.descriptor) == 1),
      started(Clock::now()) {}

Progress::~Progress() { finish(); }

void Progress::start(int64_t from) {
  first = done = from;
  tokens = 0;
  started = Clock::now();
}

void Progress::update(int64_t now, int64_t tokensNow,
                      std::optional<double> newLoss) {
  done = now;
  part = 0;
  tokens = tokensNow;
  loss = newLoss;
  show(false);
}

void Progress::updatePart(int64_t partNow, int64_t of, int64_t tokensNow) {
  part = partNow;
  parts = of;
  tokens = tokensNow;
  show(false);
}

std::string Progress::line(double seconds, int width) const {
  std::string facts =
      format(" %s %lld/%lld", unit.c_str(), static_cast<long long>(done),
             static_cast<long long>(total));
  if (part > 0)
    facts += format(" + %lld/%lld", static_cast<long long>(part),
                    static_cast<long long>(parts));
  if (loss)
    facts += format("  loss %.4f", *loss);
  if (tokens > 0 && seconds > 0) {
    const double rate = double(tokens) / seconds;
    facts += "  " + formatAmount(rate) + "tokens/s";
    if (options.flopsPerToken > 0)
      facts += "  " + formatAmount(rate * options.flopsPerToken) + "FLOP/s";
  }
  if (done >= total)
    facts += "  took " + formatSeconds(seconds);
  else if (const double now = double(done) + double(part) / double(parts);
           now > double(first))
    facts +=
        "  " +
        formatSeconds(seconds * (double(total) - now) / (now - double(first))) +
        " left";
  const int room = width - int(label.size() + facts.size()) - 4;
  std::string text = label;
  if (room >= 8) {
    const int size = std::min(room, 30);
    const int filled =
        total > 0
            ? int(double(size) * double(std::min(done, total)) / double(total))
            : size;
    text += " [" + std::string(size_t(filled), '#') +
            std::string(size_t(size - filled), '.') + "]";
  }
  text += facts;
  if (width > 0 && int(text.size()) > width)
    text.resize(size_t(width));
  return text;
}

void Progress::write(std::string_view text) const {
  // What is only for the eye must not end a run.
  while (!text.empty()) {
    const ssize_t got = ::write(options.descriptor, text.data(), text.size());
    if (got <= 0)
      return;
    text.remove_prefix(size_t(got));
  }
}

void Progress::show(bool force) {
  if (options.quiet)
    return;
  const Clock::time_point now = Clock::now();
  const double apart = isTerminal ? 0.1 : options.secondsApart;
  if (isShown && !force &&
      std::chrono::duration<double>(now - shown).count() < apart)
    return;
  const double seconds = std::chrono::duration<double>(now - started).count();
  if (isTerminal) {
    winsize size{};
    const int width =
        ::ioctl(options.descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 1
            ? size.ws_col - 1
            : 79;
    write("\r" + line(seconds, width) + "\x1b[K");
  } else {
    write(line(seconds, 0) + "\n");
  }
  isShown = true;
  shown = now;
}

void Progress::note(std::string_view text) {
  if (options.quiet)
    return;
  write((isTerminal && isShown ? "\r\x1b[K" : "") + std::string(text) + "\n");
  if (isTerminal && isShown)
    show(true);
}

void Progress::clear() {
  if (isTerminal && isShown)
    write("\r\x1b[K");
}

void Progress::finish() {
  if (!isShown)
    return;
  show(true);
  if (isTerminal)
    write("\n");
  isShown = false;
}
