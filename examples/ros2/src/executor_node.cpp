// A node that answers each observation with an action: std_msgs/Float32MultiArray on the topics
// observation and action. std_msgs/Empty on reset begins an episode.
#include <cinttypes>
#include <memory>

#include "executor.h"
#include "rclcpp/rclcpp.hpp"
#include "std_msgs/msg/empty.hpp"
#include "std_msgs/msg/float32_multi_array.hpp"

namespace agentkd_ros2
{

using std_msgs::msg::Empty;
using std_msgs::msg::Float32MultiArray;

class ExecutorNode : public rclcpp::Node
{
public:
  ExecutorNode()
  : Node("agentkd_executor")
  {
    executor_reset(&state_);
    publisher_ = create_publisher<Float32MultiArray>("action", 1);
    // The newest observation counts: older ones are not kept.
    observations_ = create_subscription<Float32MultiArray>(
      "observation", 1, [this](const Float32MultiArray & message) {act(message);});
    resets_ = create_subscription<Empty>(
      "reset", 1, [this](const Empty &) {executor_reset(&state_);});
  }

private:
  void act(const Float32MultiArray & message)
  {
    if (message.data.size() != EXECUTOR_OBS) {
      RCLCPP_ERROR(
        get_logger(), "The observation has %zu numbers, not %d.", message.data.size(),
        EXECUTOR_OBS);
      return;
    }
    executor_number action[EXECUTOR_ACTION];
    if (executor_step(&state_, message.data.data(), action, nullptr) != 0) {
      RCLCPP_ERROR(get_logger(), "The observation, or what becomes of it, is NaN or infinite.");
      return;
    }
    Float32MultiArray answer;
    answer.data.assign(action, action + EXECUTOR_ACTION);
    publisher_->publish(answer);
  }

  executor_state state_;
  rclcpp::Publisher<Float32MultiArray>::SharedPtr publisher_;
  rclcpp::Subscription<Float32MultiArray>::SharedPtr observations_;
  rclcpp::Subscription<Empty>::SharedPtr resets_;
};

}  // namespace agentkd_ros2

int main(int argc, char ** argv)
{
  rclcpp::init(argc, argv);
  rclcpp::spin(std::make_shared<agentkd_ros2::ExecutorNode>());
  rclcpp::shutdown();
  return 0;
}
