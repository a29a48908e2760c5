// A stub for tests.
#ifndef AGENTKD_STUB_FLOAT32_MULTI_ARRAY
#define AGENTKD_STUB_FLOAT32_MULTI_ARRAY

#include <vector>

namespace std_msgs::msg
{

struct Float32MultiArray
{
  std::vector<float> data;
  void fill(const std::vector<float> & numbers) {data = numbers;}
};

}  // namespace std_msgs::msg

#endif
