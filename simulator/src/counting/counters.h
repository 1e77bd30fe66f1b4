// counters.h: the record of a launch.
#pragma once

#include <string>

namespace wbsim {

struct Launch;
struct Result;

// Everything a launch counted, as a JSON object.
std::string record_json(const Launch& launch, const Result& result);

}  // namespace wbsim
