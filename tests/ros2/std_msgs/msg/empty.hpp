// A stub for tests.
#ifndef AGENTKD_STUB_EMPTY
#define AGENTKD_STUB_EMPTY

#include <vector>

namespace std_msgs::msg
{

struct Empty
{
  void fill(const std::vector<float> &) {}
};

}  // namespace std_msgs::msg

#endif
